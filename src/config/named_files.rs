//! The files that a config names.

use std::path::Path;

use super::Config;

impl Config {
    /// Returns the files that the config names, except sounds, each with its key.
    pub(crate) fn files(&self) -> Vec<(String, &Path)> {
        let keys = [
            ("camera.ca-file", &self.camera.ca_file),
            ("models.classifier", &self.models.classifier),
            ("models.replay", &self.models.replay),
            ("models.detector", &self.models.detector),
            ("web.tls-certificate", &self.web.tls_certificate),
            ("web.tls-key", &self.web.tls_key),
            ("mqtt.ca-file", &self.mqtt.ca_file),
            ("mqtt.password-file", &self.mqtt.password_file),
        ];
        let mut files = Vec::new();
        for (key, file) in keys {
            files.extend(file.as_deref().map(|file| (key.to_owned(), file)));
        }
        for webhook in &self.events.webhook {
            for (key, file) in [
                ("key-file", &webhook.key_file),
                ("token-file", &webhook.token_file),
                ("ca-file", &webhook.ca_file),
            ] {
                let name = || format!("events.webhook.{key} of {:?}", webhook.name);
                files.extend(file.as_deref().map(|file| (name(), file)));
            }
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn each_file_is_named_with_its_key() {
        let text = "[web]\ntls-certificate = \"/c\"\ntls-key = \"/k\"\n\
                    [[events.webhook]]\nname = \"chat\"\nurl = \"https://a/\"\n\
                    key-file = \"/s\"\ntoken-file = \"/t\"\n";
        let config = parse("test", text).unwrap();
        let files: Vec<String> = config
            .files()
            .iter()
            .map(|(key, file)| format!("{key} {}", file.display()))
            .collect();
        assert_eq!(
            files,
            [
                "web.tls-certificate /c",
                "web.tls-key /k",
                "events.webhook.key-file of \"chat\" /s",
                "events.webhook.token-file of \"chat\" /t",
            ]
        );
    }
}
