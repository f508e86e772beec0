//! What stands at a host's key.

use etcd_client::KeyValue;
use serde::{Deserialize, Serialize};
use vmferry_core::{identity::is_address, migration::Endpoint};

/// The value. Further members are of later versions, and not read.
#[derive(Debug, Serialize, Deserialize)]
struct Value {
    address: String,
}

/// A key below the prefix that names no host of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The key, with its prefix.
    pub key: String,
    /// What is wrong with it, as the rest of a sentence that begins with the key.
    pub why: String,
}

/// What a host's agent writes.
pub(crate) fn value(address: &str) -> String {
    serde_json::json!(Value { address: address.to_owned() }).to_string()
}

/// What is read of it.
pub(crate) fn read(prefix: &str, pair: &KeyValue) -> Result<Endpoint, Skipped> {
    let key = String::from_utf8_lossy(pair.key()).into_owned();
    judge(prefix, &key, pair.value()).map_err(|why| Skipped { key, why })
}

fn judge(prefix: &str, key: &str, value: &[u8]) -> Result<Endpoint, String> {
    let name = key.strip_prefix(prefix).unwrap_or(key);
    let host = name.parse().map_err(|_| format!("names no host: `{}` cannot be a host's name", name.escape_debug()))?;
    let value: Value = serde_json::from_slice(value)
        .map_err(|error| format!("does not say {{\"address\": \"HOST:PORT\"}}, as agents do: {error}"))?;
    if !is_address(&value.address) {
        return Err(format!("says `{}`, which is no HOST:PORT", value.address.escape_debug()));
    }
    Ok(Endpoint { host, address: value.address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_agents_write_and_what_later_ones_may() {
        let ours = value("192.0.2.10:7443");
        assert_eq!(ours, r#"{"address":"192.0.2.10:7443"}"#);
        for value in [ours.as_str(), r#"{"zone": "nova", "address": "192.0.2.10:7443"}"#] {
            let endpoint = judge("/vmferry/hosts/", "/vmferry/hosts/node-28", value.as_bytes()).expect("valid");
            assert_eq!((endpoint.host.as_str(), endpoint.address.as_str()), ("node-28", "192.0.2.10:7443"));
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_key() {
        let good = r#"{"address":"192.0.2.10:7443"}"#;
        for (key, value, word) in [
            ("/p/", good, "names no host"),
            ("/p/a/b", good, "`a/b` cannot be"),
            ("/p/a b", good, "`a b` cannot be"),
            ("/p/a", "", "does not say"),
            ("/p/a", "192.0.2.10:7443", "does not say"),
            ("/p/a", "[]", "does not say"),
            ("/p/a", r#"{"adress":"192.0.2.10:7443"}"#, "missing field `address`"),
            ("/p/a", r#"{"address":7443}"#, "does not say"),
            ("/p/a", r#"{"address":"192.0.2.10"}"#, "says `192.0.2.10`, which is no HOST:PORT"),
        ] {
            let why = judge("/p/", key, value.as_bytes()).expect_err(key);
            assert!(why.contains(word), "{key} {value}: {why}");
        }
    }
}
