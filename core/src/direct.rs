//! What a host has for the direct path, on which QEMU talks to QEMU by its own TLS.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where QEMU of a destination takes guests on the direct path, and who it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectEnd {
    /// What it listens on, and what the source's QEMU connects to.
    pub address: IpAddr,
    /// The name that its certificate must carry.
    pub name: String,
}

/// What a host has, as far as it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectFacts {
    /// By its agent's configuration.
    pub end: DirectEnd,
    /// Whether something can listen on that address; or why not.
    pub listens: Result<(), String>,
    /// The authority that QEMU trusts.
    pub authority: TlsFile<Certificate>,
    /// QEMU's own certificate: as a client on the source, as a server on the destination.
    pub certificate: TlsFile<Certificate>,
    /// Its key.
    pub key: TlsFile<()>,
    /// When they were looked at.
    pub at: Timestamp,
}

/// A file of QEMU's TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFile<T> {
    /// Where it must be.
    pub path: String,
    /// What it holds; or why it cannot serve.
    pub read: Result<T, String>,
}

/// What is to be known of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The DNS names and IP addresses that it is for.
    pub names: Vec<String>,
    /// Whether it may issue others.
    pub is_authority: bool,
    /// Not valid before.
    pub not_before: Timestamp,
    /// Not valid after.
    pub not_after: Timestamp,
}

impl DirectFacts {
    /// Each of the files: whether it serves `end`, if it is that of a server, and until when or why not.
    pub fn judged(&self, server: Option<&DirectEnd>) -> [(&str, Result<String, String>); 3] {
        let authority = self.authority.read.clone().and_then(|authority| {
            let valid = authority.valid_at(self.at)?;
            if authority.is_authority { Ok(valid) } else { Err("it is no CA's certificate".to_owned()) }
        });
        let certificate = self.certificate.read.clone().and_then(|certificate| {
            let valid = certificate.valid_at(self.at)?;
            match server {
                Some(DirectEnd { name, .. }) if !certificate.is_for(name) => {
                    let names = certificate.names.join(", ");
                    Err(format!("it is not for {name}, but for {}", if names.is_empty() { "nobody" } else { &names }))
                }
                _ => Ok(valid),
            }
        });
        let key = self.key.read.clone().map(|()| "there".to_owned());
        [(&self.authority.path, authority), (&self.certificate.path, certificate), (&self.key.path, key)]
    }
}

impl Certificate {
    fn valid_at(&self, now: Timestamp) -> Result<String, String> {
        let day = |time: Timestamp| time.strftime("%Y-%m-%d").to_string();
        if now < self.not_before {
            return Err(format!("it is not valid before {}", self.not_before));
        }
        if now > self.not_after {
            return Err(format!("it expired on {}", day(self.not_after)));
        }
        Ok(format!("valid until {}", day(self.not_after)))
    }

    /// As TLS compares names: the first label of a certificate's may be a `*`.
    fn is_for(&self, name: &str) -> bool {
        let wanted = name.to_ascii_lowercase();
        self.names.iter().map(|own| own.to_ascii_lowercase()).any(|own| match own.strip_prefix("*.") {
            Some(domain) => wanted.split_once('.').is_some_and(|(first, rest)| !first.is_empty() && rest == domain),
            None => own == wanted,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    /// All as it must be.
    pub(crate) fn fit() -> DirectFacts {
        let certificate = |is_authority| Certificate {
            names: vec!["node-31".into(), "10.0.0.31".into()],
            is_authority,
            not_before: at(100),
            not_after: at(200),
        };
        let file = |name: &str, is_authority| TlsFile {
            path: format!("/etc/pki/qemu/{name}"),
            read: Ok(certificate(is_authority)),
        };
        DirectFacts {
            end: DirectEnd { address: [10, 0, 0, 31].into(), name: "node-31".into() },
            listens: Ok(()),
            authority: file("ca-cert.pem", true),
            certificate: file("server-cert.pem", false),
            key: TlsFile { path: "/etc/pki/qemu/server-key.pem".into(), read: Ok(()) },
            at: at(150),
        }
    }

    #[test]
    fn each_file_says_why_it_does_not_serve() {
        let wrong = |facts: &DirectFacts| {
            let judged = facts.judged(Some(&facts.end)).map(|(_, judged)| judged.err().unwrap_or_default());
            judged.into_iter().filter(|why| !why.is_empty()).collect::<Vec<_>>()
        };
        assert_eq!(wrong(&fit()), Vec::<String>::new());
        for (now, why) in [(50, "not valid before"), (300, "expired on 1970-01-01")] {
            let found = wrong(&DirectFacts { at: at(now), ..fit() });
            assert!(found.len() == 2 && found.iter().all(|found| found.contains(why)), "{found:?}");
        }
        let missing = TlsFile { path: "/k".into(), read: Err("it is not there".into()) };
        assert_eq!(wrong(&DirectFacts { key: missing, ..fit() }), ["it is not there"]);
        let exchanged = DirectFacts { authority: fit().certificate, ..fit() };
        assert_eq!(wrong(&exchanged), ["it is no CA's certificate"]);
        let renamed = DirectFacts { end: DirectEnd { name: "node-32".into(), ..fit().end }, ..fit() };
        assert_eq!(wrong(&renamed), ["it is not for node-32, but for node-31, 10.0.0.31"]);
        assert!(renamed.judged(None).iter().all(|(_, judged)| judged.is_ok()), "a client needs no name");
    }

    #[test]
    fn names_are_compared_as_tls_does() {
        let certificate = |name: &str| Certificate {
            names: vec![name.into()],
            is_authority: false,
            not_before: at(0),
            not_after: at(1),
        };
        for (own, wanted, is) in [
            ("node-31.example", "NODE-31.example", true),
            ("*.example", "node-31.example", true),
            ("*.example", "a.node-31.example", false),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("10.0.0.31", "10.0.0.31", true),
            ("node-3", "node-31", false),
        ] {
            assert_eq!(certificate(own).is_for(wanted), is, "{own} for {wanted}");
        }
    }
}
