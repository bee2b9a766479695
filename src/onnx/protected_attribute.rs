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
        words: "emotion emotions emotional mood happy happiness sad sadness angry anger \
                fearful disgusted emotionen gefuhl gefuehl gefuhle gefuehle stimmung \
                glucklich gluecklich frohlich froehlich traurig wutend wuetend angstlich \
                aengstlich emocion emociones sentimiento sentimientos feliz felices \
                triste tristes enojado enojada enfadado enfadada moods fear disgust \
                surprise surprised freude trauer wut angst ekel uberrascht ueberrascht \
                uberraschung ueberraschung alegria tristeza felicidad miedo asco \
                sorpresa enojo enojados enfado",
    },
    Attribute {
        name: "ethnicity",
        words: "ethnicity ethnic race racial nationality asian african caucasian \
                hispanic latino latina arab ethnie ethnisch ethnizitat ethnizitaet rasse \
                hautfarbe nationalitat nationalitaet staatsangehorigkeit \
                staatsangehoerigkeit asiatisch afrikanisch arabisch etnia etnico etnica \
                raza nacionalidad asiatico asiatica africano africana arabe ethnicities \
                races nationalities asians africans caucasians hispanics latinos latinas \
                arabs indian indians ethnien rassen nationalitaten nationalitaeten \
                asiate asiatin asiaten afrikaner afrikanerin araber araberin inder \
                inderin etnias razas nacionalidades asiaticos asiaticas africanos \
                africanas arabes",
    },
    Attribute {
        name: "religion",
        words: "religion religions religious faith muslim islamic jewish christian hindu \
                buddhist religios religioes glaube konfession muslimisch judisch \
                juedisch christlich religiones religioso religiosa musulman musulmana \
                judio judia cristiano cristiana muslims jew jews christians hindus \
                buddhists catholic catholics religionen muslime muslimin jude juden \
                judin juedin christen katholisch buddhistisch musulmanes judios judias \
                cristianos cristianas catolico catolica catolicos catolicas",
    },
    Attribute {
        name: "political opinion",
        words: "political politics politik politisch politica politico politicas \
                politicos",
    },
    Attribute {
        name: "sexual orientation",
        words: "sexual sexuality homosexual heterosexual gay lesbian sexuell sexualitat \
                sexualitaet homosexuell heterosexuell schwul lesbisch sexualidad \
                lesbiana bisexual homosexuals gays lesbians schwule lesbe lesben \
                bisexuell homosexuales lesbianas",
    },
    Attribute {
        name: "disability",
        words: "disability disabled behinderung behindert discapacidad discapacitado \
                discapacitada disabilities behinderungen behinderte behinderter \
                discapacidades discapacitados discapacitadas",
    },
    Attribute {
        name: "age",
        words: "age ages aged child children adult adults teenager elderly alter \
                altersgruppe kinder erwachsen erwachsene senior senioren edad edades \
                nino nina ninos ninas adulto adulta adultos anciano anciana young youth \
                kid kids baby babies toddler toddlers teen teens teenagers seniors jung \
                jugendlich jugendliche altersgruppen altersklasse joven jovenes bebe \
                bebes adolescente adolescentes",
    },
    Attribute {
        name: "sex",
        words: "sex sexes gender genders male males female females man men woman women \
                boy boys girl girls geschlecht mann manner maenner frau frauen mannlich \
                maennlich weiblich junge madchen maedchen sexo genero hombre hombres \
                mujer mujeres masculino femenino chico chica lady ladies transgender \
                geschlechter jungen jungs dame damen herr herren sexos generos masculina \
                femenina chicos chicas varon varones senora senoras",
    },
];

/// Returns the first word in a name that stands for an attribute of people, as the list
/// spells it, and the name of the attribute. Compares whole words, without regard to case
/// and diacritics. A word is a sequence of letters, or a part of it that begins with an
/// uppercase letter, as in `ageGroup`.
pub(super) fn find(name: &str) -> Option<(&'static str, &'static str)> {
    let plain: String = name.chars().filter_map(plain).collect();
    let words = plain.split(|c: char| !c.is_alphabetic() && !is_mark(c));
    words.flat_map(with_parts).find_map(|word| {
        let word = fold(word);
        ATTRIBUTES.iter().find_map(|attribute| {
            let known = attribute.words().find(|known| *known == word)?;
            Some((known, attribute.name))
        })
    })
}

/// Returns a word, and its parts that begin with an uppercase letter after a lowercase one.
fn with_parts(word: &str) -> Vec<&str> {
    let mut parts = vec![word];
    let mut start = 0;
    let mut is_after_lowercase = false;
    for (index, c) in word.char_indices() {
        if is_after_lowercase && c.is_uppercase() {
            parts.push(&word[start..index]);
            start = index;
        }
        is_after_lowercase = c.is_lowercase() || is_after_lowercase && is_mark(c);
    }
    parts.push(&word[start..]);
    parts
}

/// Whether a character is a combining diacritical mark, which follows its letter.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}')
}

/// Returns the Latin letter that looks like a character, or the character itself. Returns `None`
/// for a character that nobody sees.
fn plain(c: char) -> Option<char> {
    let code = u32::from(c);
    // The alphabet from a first letter on.
    let letter = |first: u32, a: char| char::from_u32(u32::from(a) + code - first);
    match c {
        '\u{ad}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e01ef}' => None,
        // Fullwidth letters, and letters in circles.
        'Ａ'..='Ｚ' => letter(0xff21, 'A'),
        'ａ'..='ｚ' => letter(0xff41, 'a'),
        'Ⓐ'..='Ⓩ' => letter(0x24b6, 'A'),
        'ⓐ'..='ⓩ' => letter(0x24d0, 'a'),
        // Mathematical letters: an uppercase and a lowercase alphabet for each style.
        '\u{1d400}'..='\u{1d6a3}' => {
            let index = (code - 0x1d400) % 52;
            let first = if index < 26 { 'A' } else { 'G' };
            char::from_u32(u32::from(first) + index)
        }
        c => Some(look_alike(c)),
    }
}

/// Returns the Latin letter that looks like a Greek, Cyrillic, or phonetic letter, or the
/// character itself.
fn look_alike(c: char) -> char {
    match c {
        'А' | 'Α' => 'A',
        'а' | 'α' | 'ɑ' => 'a',
        'В' | 'Β' => 'B',
        'С' => 'C',
        'с' | 'ϲ' => 'c',
        'ԁ' => 'd',
        'Е' | 'Ε' => 'E',
        'е' | 'є' | 'ε' => 'e',
        'ɡ' => 'g',
        'Н' | 'Η' => 'H',
        'һ' => 'h',
        'І' | 'Ι' => 'I',
        'і' | 'ι' | 'ı' | 'ɩ' => 'i',
        'Ј' => 'J',
        'ј' => 'j',
        'К' | 'Κ' => 'K',
        'к' | 'κ' => 'k',
        'ӏ' | 'Ӏ' | 'ł' => 'l',
        'М' | 'Μ' => 'M',
        'м' => 'm',
        'Ν' => 'N',
        'п' | 'η' => 'n',
        'О' | 'Ο' => 'O',
        'о' | 'ο' | 'σ' => 'o',
        'Р' | 'Ρ' => 'P',
        'р' | 'ρ' => 'p',
        'ԛ' => 'q',
        'г' => 'r',
        'Ѕ' => 'S',
        'ѕ' | 'ſ' => 's',
        'Т' | 'Τ' => 'T',
        'т' | 'τ' => 't',
        'υ' | 'ц' => 'u',
        'ν' | 'ѵ' => 'v',
        'ԝ' | 'ω' => 'w',
        'Х' | 'Χ' => 'X',
        'х' | 'χ' => 'x',
        'У' | 'Υ' => 'Y',
        'у' | 'γ' => 'y',
        'Ζ' => 'Z',
        c => c,
    }
}

/// Returns a word in lowercase, without the diacritics of Latin letters.
fn fold(word: &str) -> String {
    let mut folded = String::with_capacity(word.len());
    for c in word.chars().flat_map(char::to_lowercase) {
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
            c if is_mark(c) => {}
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
            ("Disgust", ("disgust", "emotion")),
            ("Nationalitäten", ("nationalitaten", "ethnicity")),
            ("jóvenes", ("jovenes", "age")),
            ("ageGroup", ("age", "age")),
            ("isMale", ("male", "sex")),
            ("maskAgeA\u{308}", ("age", "age")),
        ] {
            assert_eq!(find(name), Some(found), "{name:?}");
        }
    }

    #[test]
    fn words_are_found_in_letters_that_look_alike() {
        for name in [
            "mаn",         // with a Cyrillic a
            "ΜΑΝ",         // Greek
            "ＭＡＮ",      // fullwidth
            "ⓜⓐⓝ",         // in circles
            "𝐦𝐚𝐧",         // bold
            "𝓜𝓪𝓷",         // script
            "m\u{200b}an", // with a space of no width
            "m\u{ad}an",   // with a soft hyphen
            "\u{202e}man", // with a change of direction
            "ma\u{fe0f}n", // with a variation selector
        ] {
            assert_eq!(find(name), Some(("man", "sex")), "{name:?}");
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
            "маска",
            "без маски",
            "μάσκα",
            "withMask",
            "IMAGE",
            "imaGe",
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
        fn nothing_is_found_but_whole_words(name in "[a-zäéñ _0-9-]{0,24}") {
            let lower = name.replace('ä', "a").replace('é', "e").replace('ñ', "n");
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
