//! The texts of the help and of the manual page that do not come from the definitions of the
//! options: groups of subcommands, examples, files, and environment variables.

use std::io;
use std::sync::LazyLock;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;

/// The subcommands, in groups.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "At the door",
        &[
            "setup", "run", "status", "counts", "check", "privacy", "pins-off",
        ],
    ),
    (
        "Learning on this device",
        &[
            "enroll", "label", "samples", "refit", "heads", "rollback", "fleet",
        ],
    ),
    (
        "Pictures and models",
        &["classify", "train", "eval", "bench"],
    ),
    (
        "Other programs",
        &["passwd", "openapi", "completions", "man"],
    ),
];

/// Examples of each subcommand: what a user wants, and the command for it.
const EXAMPLES: [(&str, &[(&str, &str)]); 22] = [
    (
        "setup",
        &[
            ("Answer questions on the terminal", "sudo maskd setup"),
            (
                "Set a camera and two LEDs without questions",
                "sudo maskd setup --camera rpicam --green-pin 17 --red-pin 27 --yes",
            ),
            (
                "Serve the page, with a password from a file",
                "sudo maskd setup --page 0.0.0.0:8080 --password-stdin < password.txt",
            ),
        ],
    ),
    (
        "run",
        &[
            ("Try it without a camera", "maskd run"),
            ("Watch a USB webcam", "maskd run --source webcam"),
            (
                "Print one JSON object per decision",
                "maskd run --source pictures --json",
            ),
        ],
    ),
    (
        "classify",
        &[
            (
                "Draw verdicts on all pictures in a folder",
                "maskd classify pictures --annotate annotated",
            ),
            (
                "Read a picture from another program",
                "curl --silent http://camera/still.jpg | maskd classify -",
            ),
        ],
    ),
    (
        "train",
        &[(
            "Train a classifier as the tutorial does, and plot its history",
            "maskd train --dataset dataset --recipe tutorial --plot plot.png --model model.onnx",
        )],
    ),
    (
        "eval",
        &[
            (
                "Measure a model on a folder with one subfolder per label",
                "maskd eval --dataset dataset --model model.onnx",
            ),
            (
                "Measure verdicts by camera, and show what went wrong",
                "maskd eval --faces cameras --errors errors",
            ),
        ],
    ),
    (
        "status",
        &[("See whether the camera works", "maskd status")],
    ),
    (
        "counts",
        &[
            ("Show the people of each hour", "maskd counts"),
            (
                "Save the days of a month for a spreadsheet",
                "maskd counts --by day --from 2026-11-01 --to 2026-11-30 --csv > november.csv",
            ),
        ],
    ),
    (
        "privacy",
        &[("See what is stored, and for how long", "maskd privacy")],
    ),
    (
        "label",
        &[
            (
                "Label two face pictures",
                "maskd label with_mask 20261124T1015 20261124T1016",
            ),
            ("Take the last action back", "maskd label --undo"),
        ],
    ),
    (
        "enroll",
        &[(
            "Store 30 pictures of the person at the door",
            "maskd enroll without_mask",
        )],
    ),
    (
        "samples",
        &[
            (
                "List pictures whose labels look wrong",
                "maskd samples list --suspect",
            ),
            (
                "Add pictures from a folder with one subfolder per label",
                "maskd samples import /srv/faces",
            ),
        ],
    ),
    (
        "refit",
        &[(
            "Train, and show the figures of the comparison",
            "maskd refit --details",
        )],
    ),
    (
        "heads",
        &[
            ("List the models", "maskd heads list"),
            ("Use the built-in model", "maskd heads use 0"),
        ],
    ),
    ("rollback", &[("Undo the last training", "maskd rollback")]),
    (
        "fleet",
        &[("Create the key of this device", "maskd fleet key")],
    ),
    (
        "check",
        &[
            ("Check the config of the service", "sudo maskd check"),
            (
                "Check a config before you install it",
                "maskd check --config new.toml",
            ),
        ],
    ),
    (
        "passwd",
        &[
            ("Create the hash of a password", "maskd passwd"),
            ("Create a token for a program", "maskd passwd --token"),
        ],
    ),
    (
        "openapi",
        &[(
            "Save the description of the API",
            "maskd openapi > openapi.json",
        )],
    ),
    (
        "pins-off",
        &[("Switch all outputs off", "sudo maskd pins-off")],
    ),
    (
        "bench",
        &[
            ("Measure this board", "maskd bench"),
            (
                "Measure it and print one line to send",
                "maskd bench --line",
            ),
        ],
    ),
    (
        "completions",
        &[(
            "Complete words in bash",
            "maskd completions bash > ~/.local/share/bash-completion/completions/maskd",
        )],
    ),
    ("man", &[("Read the manual page", "maskd man | man -l -")]),
];

/// The exit codes, as in `sysexits.h`.
const EXIT_CODES: [(&str, &str); 10] = [
    ("0", "success"),
    ("64", "wrong usage"),
    ("65", "invalid data, such as a picture or a model"),
    ("66", "input not found"),
    ("69", "camera or daemon not available"),
    ("70", "internal error"),
    ("74", "cannot write"),
    ("75", "interrupted or busy: try again"),
    ("78", "invalid config"),
    ("130", "Ctrl-C at a question"),
];

const FILES: [(&str, &str); 7] = [
    (
        "~/.config/maskd/maskd.toml",
        "The config of a user. It is used instead of the next file if it exists.",
    ),
    (
        "/etc/maskd/maskd.toml",
        "The config of the service, and of users without a config of their own.",
    ),
    (
        "/usr/share/maskd/maskd.toml",
        "All keys with their defaults, in the Debian package.",
    ),
    (
        "/var/lib/maskd",
        "The state directory of the service, with face pictures and models.",
    ),
    (
        "~/.local/state/maskd",
        "The state directory of a user, if the service does not run.",
    ),
    (
        "/etc/systemd/system/maskd.service.d/network.conf",
        "The drop-in with which \"maskd setup\" gives the service access to the network.",
    ),
    (
        "/run/maskd/control.sock",
        "The socket through which commands reach the service.",
    ),
];

const ENVIRONMENT: [(&str, &str); 2] = [
    ("MASKD_CONFIG", "The config file, if --config is not given."),
    (
        "MASKD_LOG",
        "What to log, if none of --log, -v, and -q is given.",
    ),
];

/// The version with the details that a bug report needs. Packagers set `MASKD_COMMIT` when
/// they build maskd.
pub(super) static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let features = if cfg!(feature = "camera") {
        "camera"
    } else {
        "none"
    };
    let commit = option_env!("MASKD_COMMIT").unwrap_or("unknown");
    let version = env!("CARGO_PKG_VERSION");
    format!("{version}\nfeatures: {features}\ncommit: {commit}")
});

/// Returns the definition of the command line with all help texts.
pub(super) fn command() -> Command {
    let mut command = Cli::command();
    let groups = groups(&command);
    command = command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}{{after-help}}"
    ));
    for (name, _) in EXAMPLES {
        command = command.mut_subcommand(name, |sub| match examples(name) {
            None => sub,
            Some(text) => sub.after_help(format!("Examples:\n{text}")),
        });
    }
    let codes: Vec<String> = EXIT_CODES
        .iter()
        .map(|(code, meaning)| format!("{code} {meaning}"))
        .collect();
    command.after_help(format!("Exit codes: {}.", codes.join(", ")))
}

fn groups(command: &Command) -> String {
    let mut text = String::new();
    for (title, names) in GROUPS {
        text += &format!("{title}:\n");
        for name in names {
            let sub = command.find_subcommand(name);
            let about = sub.and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            text += &format!("  {name:<12} {about}\n");
        }
        text.push('\n');
    }
    text
}

/// Returns the examples of a subcommand as text, or `None` if there are none.
fn examples(name: &str) -> Option<String> {
    let (_, examples) = EXAMPLES.iter().find(|(of, _)| *of == name)?;
    let lines = examples
        .iter()
        .map(|(purpose, line)| format!("  {purpose}:\n    {line}\n"));
    Some(lines.collect())
}

/// Writes a manual page. The page of maskd itself has more sections than those of the
/// subcommands.
pub(super) fn man_page(command: Command, page: &mut Vec<u8>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or("maskd").to_owned();
    let man = Man::new(command);
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    let Some(subcommand) = name.strip_prefix("maskd-") else {
        man.render_subcommands_section(page)?;
        section(page, "FILES", &FILES);
        section(page, "ENVIRONMENT", &ENVIRONMENT);
        section(page, "EXIT STATUS", &EXIT_CODES);
        example_section(page, EXAMPLES.iter().flat_map(|(_, examples)| *examples));
        return man.render_version_section(page);
    };
    if let Some((_, examples)) = EXAMPLES.iter().find(|(of, _)| *of == subcommand) {
        example_section(page, examples.iter());
    }
    Ok(())
}

fn section(page: &mut Vec<u8>, title: &str, entries: &[(&str, &str)]) {
    let mut text = format!(".SH \"{title}\"\n");
    for (term, meaning) in entries {
        text += &format!(".TP\n\\fB{}\\fR\n{}\n", roff(term), roff(meaning));
    }
    page.extend_from_slice(text.as_bytes());
}

fn example_section<'a>(page: &mut Vec<u8>, examples: impl Iterator<Item = &'a (&'a str, &'a str)>) {
    let mut text = ".SH EXAMPLES\n".to_owned();
    for (purpose, line) in examples {
        text += &format!(".TP\n{}:\n.nf\n{}\n.fi\n", roff(purpose), roff(line));
    }
    page.extend_from_slice(text.as_bytes());
}

/// Escapes the characters that have a meaning in roff.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subcommand_is_in_one_group_and_has_examples() {
        let command = Cli::command();
        let mut all: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        all.sort_unstable();
        let mut grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        grouped.sort_unstable();
        assert_eq!(grouped, all);
        let mut shown: Vec<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        shown.sort_unstable();
        assert_eq!(shown, all);
    }

    #[test]
    fn the_examples_are_valid_commands() {
        for (purpose, line) in EXAMPLES.iter().flat_map(|(_, examples)| *examples) {
            let from = line.find("maskd ").unwrap_or_default();
            let own = line[from..]
                .split(['|', '>', '<'])
                .next()
                .unwrap_or_default();
            let parsed = command().try_get_matches_from(own.split_whitespace());
            assert!(parsed.is_ok(), "{purpose}: {line}: {parsed:?}");
        }
    }

    #[test]
    fn the_manual_page_has_its_sections() {
        let mut page = Vec::new();
        man_page(command(), &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        for title in [
            "NAME",
            "SYNOPSIS",
            "OPTIONS",
            "FILES",
            "ENVIRONMENT",
            "\"EXIT STATUS\"",
            "EXAMPLES",
        ] {
            assert!(
                page.contains(&format!("\n.SH {title}\n"))
                    || page.contains(&format!("\n.SH \"{title}\"\n")),
                "{title}: {page}"
            );
        }
        assert!(page.contains("maskd classify \\-"), "{page}");
    }
}
