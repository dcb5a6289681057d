//! A Slack-compatible webhook: Slack, Mattermost, Rocket.Chat, Discord's `/slack` addresses.
//!
//! Its address is a secret: it is read from its file each time, and no error tells it.

use std::io;
use std::time::Duration;

use serde_json::json;

use super::{Message, Notifier, NotifyError, cryptography};
use crate::config::Webhook;
use crate::secret;

/// Bytes of an answer that are looked at.
const ANSWER_BYTES: u64 = 200;

/// The notifier.
#[derive(Debug)]
pub struct Slack {
    webhook: Webhook,
}

impl Slack {
    /// Of this section.
    #[must_use]
    pub const fn new(webhook: Webhook) -> Self {
        Self { webhook }
    }

    fn address(&self) -> Result<ureq::http::Uri, NotifyError> {
        let file = self.webhook.webhook_file.display();
        let address = secret::read(&self.webhook.webhook_file)
            .map_err(|error| NotifyError::Settings(error.to_string()))?;
        let address = address.trim();
        // the parser's own words could tell a part of it
        address
            .parse::<ureq::http::Uri>()
            .ok()
            .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .ok_or_else(|| {
                let message = format!("{file} does not hold an address that begins with https://");
                NotifyError::Settings(message)
            })
    }
}

impl Notifier for Slack {
    fn name(&self) -> &'static str {
        "slack"
    }

    fn send(&self, message: &Message, wait: Duration) -> Result<(), NotifyError> {
        cryptography();
        let address = self.address()?;
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(wait))
            // elsewhere than where the administrator said, nothing is told
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent("bitacora")
            .tls_config(
                ureq::tls::TlsConfig::builder()
                    .root_certs(ureq::tls::RootCerts::PlatformVerifier)
                    .build(),
            )
            .build()
            .new_agent();
        let mut answer = agent
            .post(&address)
            .header("Content-Type", "application/json; charset=utf-8")
            .send(body(message))
            .map_err(|error| refused(&error, wait))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let said = answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_string();
        let said = word_of(&said.unwrap_or_default(), &address.to_string());
        Err(NotifyError::Refused(format!("the webhook answers {}{said}", status.as_u16())))
    }
}

/// What an answer says, if it is a word such as Slack's `invalid_payload`: anything else might
/// repeat the address.
fn word_of(answer: &str, address: &str) -> String {
    let is_word = answer.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if answer.is_empty() || !is_word || address.contains(answer) {
        return String::new();
    }
    format!(" ({answer})")
}

/// An error in words that cannot tell the address.
fn refused(error: &ureq::Error, wait: Duration) -> NotifyError {
    let words = match error {
        ureq::Error::Timeout(_) => return NotifyError::Timeout(wait),
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            return NotifyError::Timeout(wait);
        }
        ureq::Error::Io(error) => format!("the webhook cannot be reached: {error}"),
        ureq::Error::HostNotFound => "the webhook's host is not found".to_owned(),
        ureq::Error::ConnectionFailed => "the webhook's host does not answer".to_owned(),
        ureq::Error::Rustls(error) => format!("TLS with the webhook's host fails: {error}"),
        ureq::Error::Tls(error) => format!("TLS with the webhook's host fails: {error}"),
        _ => "the webhook does not speak HTTP as it should".to_owned(),
    };
    NotifyError::Refused(words)
}

fn body(message: &Message) -> String {
    json!({
        "text": escape(&message.text()),
        // no formatting, no links, no names that would call people
        "mrkdwn": false,
        "parse": "none",
        "link_names": false,
        "unfurl_links": false,
        "unfurl_media": false,
    })
    .to_string()
}

/// Escaped as Slack asks for, which is the end of `<!channel>`; and what the compatible ones make
/// of plain text is broken up by a space of no width: `@here`, `[a](b)`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 64);
    let mut before = '\0';
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '@' => escaped.push_str("@\u{200b}"),
            '(' if before == ']' => escaped.push_str("\u{200b}("),
            c => escaped.push(c),
        }
        before = c;
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_called_by_what_a_log_says() {
        let escaped = escape("<!channel> @everyone <@U1> [click](http://x) a&b");
        for called in ["<!", "@everyone", "<@", "]("] {
            assert!(!escaped.contains(called), "{called}: {escaped}");
        }
        assert!(escaped.starts_with("&lt;!channel&gt;") && escaped.ends_with("a&amp;b"));
    }

    #[test]
    fn an_answer_is_told_only_if_it_is_a_word_of_its_own() {
        let address = "https://hooks.example.org/services/canary";
        assert_eq!(word_of("invalid_payload", address), " (invalid_payload)");
        for answer in ["", "canary", "no such hook /services/canary", "<html>"] {
            assert_eq!(word_of(answer, address), "", "{answer}");
        }
    }

    #[test]
    fn a_file_without_an_address_is_named_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let webhook_file = dir.path().join("hook");
        let slack = Slack::new(Webhook { webhook_file: webhook_file.clone() });
        for text in ["", "hooks.example.org/canary", "ftp://canary/x", "https://ca nary/"] {
            std::fs::write(&webhook_file, text).unwrap();
            let error = slack.address().unwrap_err().to_string();
            assert!(error.contains("/hook ") && !error.contains("canary"), "{error}");
        }
    }
}
