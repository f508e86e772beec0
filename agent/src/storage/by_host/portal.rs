//! Portals: where iSCSI targets are served.

use std::{fmt, net::IpAddr};

/// An address and a port. The address is a name or a number, without brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Portal {
    pub(super) address: String,
    pub(super) port: u16,
}

impl Portal {
    /// Reads `address:port`, `[address]:port` or `address`, whose port is the 3260 of RFC 7143. None for anything that is not that.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (address, port.strip_prefix(':').or(port.is_empty().then_some("3260"))?)
            }
            None => text.split_once(':').unwrap_or((text, "3260")),
        };
        // It goes into arguments and into a path.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '%' | '_');
        let named =
            address.starts_with(|c: char| c.is_ascii_alphanumeric() || c == ':') && address.chars().all(is_plain);
        named.then_some(Self { address: address.to_owned(), port: port.parse().ok()? })
    }

    /// Whether two ways of writing mean the same: `::1` and `0:0:0:0:0:0:0:1` do.
    pub(super) fn is(&self, other: &Self) -> bool {
        let number = |portal: &Self| portal.address.parse::<IpAddr>().ok();
        self.port == other.port
            && (self.address.eq_ignore_ascii_case(&other.address)
                || number(self).is_some_and(|address| number(other) == Some(address)))
    }
}

impl fmt::Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.contains(':') {
            write!(f, "[{}]:{}", self.address, self.port)
        } else {
            write!(f, "{}:{}", self.address, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portals_are_read_as_people_write_them_and_nothing_else_is() {
        for (text, shown) in [
            ("10.9.0.1:3261", "10.9.0.1:3261"),
            ("10.9.0.1", "10.9.0.1:3260"),
            ("[fd00::1]:3260", "[fd00::1]:3260"),
            ("[fd00::1]", "[fd00::1]:3260"),
            ("san-1.example.org:3260", "san-1.example.org:3260"),
        ] {
            assert_eq!(Portal::parse(text).map(|portal| portal.to_string()).as_deref(), Some(shown), "{text}");
        }
        for text in ["", ":3260", "10.9.0.1:", "10.9.0.1:x", "[fd00::1]3260", "-p:3260", "../x:3260", "a b:1", "a/b:1"]
        {
            assert_eq!(Portal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn one_portal_can_be_written_in_several_ways() {
        let portal = |text| Portal::parse(text).expect("a portal");
        assert!(portal("[fd00::1]:3260").is(&portal("[fd00:0:0:0:0:0:0:1]")));
        assert!(!portal("10.9.0.1:3260").is(&portal("10.9.0.1:3261")));
        assert!(!portal("10.9.0.1:3260").is(&portal("10.9.0.2:3260")));
    }
}
