//! E-mail by SMTP, plain text, with TLS.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{SmtpTransport, Transport};

use super::{Message, Notifier, NotifyError, cryptography};
use crate::config::Email;
use crate::maintain::alerts::text;
use crate::secret;

/// The notifier.
#[derive(Debug)]
pub struct Mail {
    email: Email,
}

fn settings(what: &str, error: &dyn std::fmt::Display) -> NotifyError {
    NotifyError::Settings(format!("{what}: {error}"))
}

impl Mail {
    /// Of this section.
    #[must_use]
    pub const fn new(email: Email) -> Self {
        Self { email }
    }

    fn letter(&self, message: &Message) -> Result<lettre::Message, NotifyError> {
        let mailbox = |address: &str| {
            address.parse::<Mailbox>().map_err(|error| settings("an address of e-mail", &error))
        };
        let mut builder: MessageBuilder = lettre::Message::builder()
            .from(mailbox(&self.email.from)?)
            // a subject of many bytes is encoded, and one line it is already
            .subject(format!("[bitacora] {}", message.subject()))
            .header(ContentType::TEXT_PLAIN);
        for address in &self.email.to {
            builder = builder.to(mailbox(address)?);
        }
        let text = message.text().replace('\n', "\r\n") + "\r\n";
        builder.body(text).map_err(|error| settings("the letter cannot be written", &error))
    }

    fn transport(&self, wait: Duration) -> Result<SmtpTransport, NotifyError> {
        let (host, port) = self
            .email
            .server
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host.trim_matches(['[', ']']), port.parse().ok()?)))
            .ok_or_else(|| NotifyError::Settings("alerts.email.server is not host:port".into()))?;
        let tls = match self.email.tls.as_str() {
            "none" => Tls::None,
            "tls" => Tls::Wrapper(self.tls(host)?),
            _ => Tls::Required(self.tls(host)?),
        };
        let mut builder =
            SmtpTransport::builder_dangerous(host).port(port).tls(tls).timeout(Some(wait));
        if let (Some(user), Some(file)) = (&self.email.username, &self.email.password_file) {
            let password =
                secret::read(file).map_err(|error| NotifyError::Settings(error.to_string()))?;
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(builder.build())
    }

    /// What of the login nobody may read, as it is and as it goes over the line.
    fn secrets(&self) -> Vec<String> {
        let (Some(user), Some(file)) = (&self.email.username, &self.email.password_file) else {
            return Vec::new();
        };
        let Ok(password) = secret::read(file) else { return Vec::new() };
        let plain = format!("\0{user}\0{password}");
        let mut secrets = [&plain, &password].map(|text| STANDARD.encode(text)).to_vec();
        secrets.push(password);
        secrets
    }

    fn tls(&self, host: &str) -> Result<TlsParameters, NotifyError> {
        let mut builder = TlsParameters::builder(host.to_owned());
        if let Some(file) = &self.email.ca_file {
            let what = file.display().to_string();
            let pem = std::fs::read(file).map_err(|error| settings(&what, &error))?;
            let authority = Certificate::from_pem(&pem).map_err(|error| settings(&what, &error))?;
            builder =
                builder.certificate_store(CertificateStore::None).add_root_certificate(authority);
        }
        builder.build().map_err(|error| settings("TLS cannot be set up", &error))
    }
}

impl Notifier for Mail {
    fn name(&self) -> &'static str {
        "email"
    }

    fn send(&self, message: &Message, wait: Duration) -> Result<(), NotifyError> {
        cryptography();
        let letter = self.letter(message)?;
        // the limit counts for each answer of the server; the whole is bounded by whoever waits
        let answer = self.transport(wait)?.send(&letter);
        answer.map(drop).map_err(|error| {
            if error.is_timeout() {
                return NotifyError::Timeout(wait);
            }
            let said = without(&chain(&error), &self.secrets());
            let said = text::line(&said, 200);
            NotifyError::Refused(format!("{} does not take it: {said}", self.email.server))
        })
    }
}

/// A server may repeat what it was sent.
fn without(said: &str, secrets: &[String]) -> String {
    let there = secrets.iter().filter(|secret| !secret.is_empty());
    there.fold(said.to_owned(), |said, secret| said.replace(secret.as_str(), "…"))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !words.contains(&said) {
            words = words + ": " + &said;
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maintain::alerts::finding::Finding;
    use crate::maintain::alerts::notify::{Kind, News};

    fn mail() -> Mail {
        Mail::new(Email {
            server: "mail.example.org:25".into(),
            tls: "starttls".into(),
            from: "bitacora <bitacora@example.org>".into(),
            to: vec!["ops@example.org".into(), "night@example.org".into()],
            username: None,
            password_file: None,
            ca_file: None,
        })
    }

    #[test]
    fn no_text_becomes_a_header() {
        let hostile = "x\r\nBcc: victim@example.org\r\n\r\n.\r\nQUIT";
        let mut finding = Finding::trouble("errors", hostile).showing([hostile]);
        finding.rule = hostile.to_owned();
        let message = Message::new(hostile, 0, vec![News::new(Kind::Trouble, &finding, 0)]);
        let letter = String::from_utf8(mail().letter(&message).unwrap().formatted()).unwrap();
        let (head, body) = letter.split_once("\r\n\r\n").unwrap();
        let headers: Vec<&str> = head.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(headers.iter().filter(|line| line.starts_with("To:")).count(), 1, "{head}");
        assert!(!headers.iter().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(!body.lines().any(|line| line == "." || line.starts_with("Bcc")), "{body}");
    }

    #[test]
    fn a_server_without_a_port_is_refused() {
        let mut mail = mail();
        mail.email.server = "mail".into();
        assert!(mail.transport(Duration::from_secs(1)).is_err());
    }
}
