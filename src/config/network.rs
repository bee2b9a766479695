//! Which parts of a config need a network. The systemd service has none by default.

use super::Config;
use crate::camera::Spec;

impl Config {
    /// Returns what needs a network, such as "the page". The program of an `exec` camera counts
    /// if one of its arguments is an address.
    pub(crate) fn network_users(&self) -> Vec<&'static str> {
        let camera = match self.camera.source.parse::<Spec>() {
            Ok(Spec::Http(_)) => true,
            Ok(Spec::Command(words)) => words.iter().any(|word| word.contains("://")),
            _ => false,
        };
        [
            ("the camera", camera),
            ("the page", self.web.listen.is_some()),
            ("the broker", self.mqtt.host.is_some()),
            ("a webhook", !self.events.webhook.is_empty()),
        ]
        .into_iter()
        .filter_map(|(user, needs)| needs.then_some(user))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn network_cameras_the_page_the_broker_and_webhooks_need_a_network() {
        let users = |text: &str| parse("any", text).unwrap().network_users();
        assert!(users("").is_empty());
        for source in ["rpicam", "webcam", "photos", "exec:ffmpeg -i door.mp4 -"] {
            let text = format!("[camera]\nsource = \"{source}\"\n");
            assert!(users(&text).is_empty(), "{source}");
        }
        for source in [
            "http://cam/",
            "https://cam/",
            "exec:ffmpeg -i rtsp://cam/ -",
        ] {
            let text = format!("[camera]\nsource = \"{source}\"\n");
            assert_eq!(users(&text), ["the camera"], "{source}");
        }
        let all = "[web]\nlisten = \"127.0.0.1:8080\"\n[mqtt]\nhost = \"broker.lan\"\n\
                   [[events.webhook]]\nname = \"home\"\nurl = \"http://home.lan/\"\n";
        assert_eq!(users(all), ["the page", "the broker", "a webhook"]);
    }
}
