//! Words for attributes of people that maskd does not classify.
//!
//! The list has English, German, and Spanish words for emotion, ethnicity, religion,
//! political opinion, sexual orientation, disability, age, and sex. It names the attributes
//! and their most common values. It leaves out words that have an ordinary meaning at a
//! door, such as "black" (a black mask) and "old" (an old mask). It also leaves out "smile",
//! because Recital 18 of Regulation (EU) 2024/1689 does not count a smile as an emotion.
//! The list prevents mistakes. It cannot prevent misuse, because a class can have any
//! other name.

/// An attribute of people.
struct Attribute {
    name: &'static str,
    /// The words for the attribute, in lowercase without diacritics. A German word with an
    /// umlaut is also listed with its other spelling, such as `maenner`.
    words: &'static str,
}

impl Attribute {
    fn words(&self) -> impl Iterator<Item = &'static str> {
        self.words.split_ascii_whitespace()
    }
}

const ATTRIBUTES: [Attribute; 8] = [
    Attribute {
        name: "emotion",
        words: "emotion emotions emotional mood happy happiness sad sadness angry anger fearful \
                disgusted emotionen gefuhl gefuehl gefuhle gefuehle stimmung glucklich \
                gluecklich frohlich froehlich traurig wutend wuetend angstlich aengstlich \
                emocion emociones sentimiento sentimientos feliz felices triste tristes enojado \
                enojada enfadado enfadada",
    },
    Attribute {
        name: "ethnicity",
        words: "ethnicity ethnic race racial nationality asian african caucasian hispanic latino \
                latina arab ethnie ethnisch ethnizitat ethnizitaet rasse hautfarbe nationalitat \
                nationalitaet staatsangehorigkeit staatsangehoerigkeit asiatisch afrikanisch \
                arabisch etnia etnico etnica raza nacionalidad asiatico asiatica africano \
                africana arabe",
    },
    Attribute {
        name: "religion",
        words: "religion religions religious faith muslim islamic jewish christian hindu \
                buddhist religios religioes glaube konfession muslimisch judisch juedisch \
                christlich religiones religioso religiosa musulman musulmana judio judia \
                cristiano cristiana",
    },
    Attribute {
        name: "political opinion",
        words: "political politics politik politisch politica politico",
    },
    Attribute {
        name: "sexual orientation",
        words: "sexual sexuality homosexual heterosexual gay lesbian sexuell sexualitat \
                sexualitaet homosexuell heterosexuell schwul lesbisch sexualidad lesbiana",
    },
    Attribute {
        name: "disability",
        words: "disability disabled behinderung behindert discapacidad discapacitado \
                discapacitada",
    },
    Attribute {
        name: "age",
        words: "age ages aged child children adult adults teenager elderly alter altersgruppe \
                kinder erwachsen erwachsene senior senioren edad edades nino nina ninos ninas \
                adulto adulta adultos anciano anciana",
    },
    Attribute {
        name: "sex",
        words: "sex sexes gender genders male males female females man men woman women boy boys \
                girl girls geschlecht mann manner maenner frau frauen mannlich maennlich \
                weiblich junge madchen maedchen sexo genero hombre hombres mujer mujeres \
                masculino femenino chico chica",
    },
];

/// Returns the first word in a name that stands for an attribute of people, as the list
/// spells it, and the name of the attribute. Compares whole words, without regard to case
/// and diacritics. A word is a sequence of letters.
pub(super) fn find(name: &str) -> Option<(&'static str, &'static str)> {
    let folded = fold(name);
    let mut words = folded.split(|c: char| !c.is_alphabetic());
    words.find_map(|word| {
        ATTRIBUTES.iter().find_map(|attribute| {
            let known = attribute.words().find(|known| *known == word)?;
            Some((known, attribute.name))
        })
    })
}

/// Returns a name in lowercase, without the diacritics of Latin letters.
fn fold(name: &str) -> String {
    let mut folded = String::with_capacity(name.len());
    for c in name.chars().flat_map(char::to_lowercase) {
        match c {
            'à'..='å' | 'ā' | 'ă' | 'ą' => folded.push('a'),
            'ç' | 'ć' | 'č' => folded.push('c'),
            'è'..='ë' | 'ē' | 'ė' | 'ę' | 'ě' => folded.push('e'),
            'ì'..='ï' | 'ī' => folded.push('i'),
            'ñ' | 'ń' | 'ň' => folded.push('n'),
            'ò'..='ö' | 'ø' | 'ō' | 'ő' => folded.push('o'),
            'ù'..='ü' | 'ū' | 'ů' | 'ű' => folded.push('u'),
            'ý' | 'ÿ' => folded.push('y'),
            'ß' => folded.push_str("ss"),
            // Combining diacritical marks, which follow the letter.
            '\u{300}'..='\u{36f}' => {}
            c => folded.push(c),
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all_words() -> Vec<&'static str> {
        ATTRIBUTES.iter().flat_map(Attribute::words).collect()
    }

    #[test]
    fn words_are_found_in_any_case_with_and_without_diacritics() {
        for (name, found) in [
            ("age", ("age", "age")),
            ("Age_30", ("age", "age")),
            ("age30", ("age", "age")),
            ("with mask, HAPPY", ("happy", "emotion")),
            ("Männlich", ("mannlich", "sex")),
            ("maennlich", ("maennlich", "sex")),
            ("Ma\u{308}nnlich", ("mannlich", "sex")),
            ("RELIGIÓN", ("religion", "religion")),
            ("religiös", ("religios", "religion")),
            ("niño-con-mascarilla", ("nino", "age")),
            ("Gefühl", ("gefuhl", "emotion")),
            ("sexual orientation", ("sexual", "sexual orientation")),
        ] {
            assert_eq!(find(name), Some(found), "{name:?}");
        }
    }

    #[test]
    fn words_that_only_contain_such_a_word_are_not_found() {
        for name in [
            "with mask",
            "with_mask",
            "without_mask",
            "mask_weared_incorrect",
            "message",
            "sexta-feira",
            "Essex",
            "manual",
            "German",
            "human",
            "embrace",
            "image",
            "garage",
            "black mask",
            "old mask",
            "smile",
            "chin",
            "Nase frei",
            "ohne Maske",
            "con mascarilla",
            "Schutzmaske",
            "마스크",
            "A-1",
        ] {
            assert_eq!(find(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_words_are_spelled_as_names_are_compared() {
        for word in all_words() {
            assert_eq!(fold(word), word);
            assert!(word.chars().all(char::is_alphabetic), "{word}");
        }
    }

    proptest! {
        #[test]
        fn a_word_is_found_anywhere_in_a_name(
            word in prop::sample::select(all_words()),
            before in "([a-z]{1,8}[ _0-9-]){0,2}",
            after in "([ _0-9-][a-z]{1,8}){0,2}",
            marks: u32,
            upper: u32,
        ) {
            let mut written = String::new();
            for (index, c) in word.chars().enumerate() {
                let bit = 1 << (index % 32);
                if upper & bit != 0 {
                    written.extend(c.to_uppercase());
                } else {
                    written.push(c);
                }
                if marks & bit != 0 {
                    written.push('\u{301}');
                }
            }
            let name = format!("{before}{written}{after}");
            prop_assert!(find(&name).is_some(), "{}", name);
        }

        #[test]
        fn nothing_is_found_but_whole_words(name in "[a-zA-Zäéñ _0-9-]{0,24}") {
            let lower = name.to_lowercase();
            let lower = lower.replace('ä', "a").replace('é', "e").replace('ñ', "n");
            let is_letter = |c: char| c.is_ascii_lowercase();
            // All ways to cut the name into a word and what is around it.
            let has_word = all_words().iter().any(|word| {
                lower.match_indices(word).any(|(start, word)| {
                    !lower[..start].ends_with(is_letter)
                        && !lower[start + word.len()..].starts_with(is_letter)
                })
            });
            prop_assert_eq!(find(&name).is_some(), has_word, "{}", name);
        }
    }
}
