//! Values as Open vSwitch's database writes them: RFC 7047, section 5.1.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use vmferry_core::network::Holder;

use super::MARK;

/// What one operation of a transaction came to.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Reply {
    #[serde(default)]
    pub(super) rows: Vec<Row>,
    pub(super) error: Option<String>,
    pub(super) details: Option<String>,
}

/// A row of any table: the columns that are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Row {
    #[serde(rename = "_uuid")]
    pub(super) uuid: Value,
    pub(super) name: String,
    pub(super) external_ids: Map,
    pub(super) datapath_type: String,
    pub(super) mtu: Set<u32>,
    pub(super) error: Set<String>,
    pub(super) cur_cfg: Option<i64>,
    pub(super) next_cfg: Option<i64>,
}

impl Row {
    /// Whom VMFerry has made it for; none: for nobody, or it has not made it.
    pub(super) fn mark(&self) -> Option<Holder> {
        self.external_ids.get(MARK)?.parse().ok()
    }
}

/// `["map", [[key, value], …]]`
#[derive(Debug, Default)]
pub(super) struct Map(BTreeMap<String, String>);

impl Map {
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (kind, pairs) = <(String, Vec<(String, String)>)>::deserialize(deserializer)?;
        if kind == "map" { Ok(Self(pairs.into_iter().collect())) } else { Err(de::Error::custom("no map")) }
    }
}

/// `["set", [value, …]]`, or the only value of one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Set<T> {
    Many((String, Vec<T>)),
    One(T),
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self::Many((String::new(), Vec::new()))
    }
}

impl<T: Clone> Set<T> {
    pub(super) fn first(&self) -> Option<T> {
        match self {
            Self::Many((_, values)) => values.first().cloned(),
            Self::One(value) => Some(value.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_the_database_writes_them() {
        let answer = r#"[
            {"rows": [{"_uuid": ["uuid", "0b6f"], "name": "p", "mtu": 1500, "error": ["set", []], "cur_cfg": 7,
                       "external_ids": ["map", [["vmferry", "network blue"]]]}]},
            {"rows": [{"mtu": ["set", []], "error": "could not open network device p (No such device)"}]},
            {"error": "constraint violation", "details": "why"}
        ]"#;
        let replies: Vec<Reply> = serde_json::from_str(answer).expect("valid");
        let (one, two) = (&replies[0].rows[0], &replies[1].rows[0]);
        assert_eq!(
            (one.name.as_str(), one.mtu.first(), one.error.first(), one.cur_cfg),
            ("p", Some(1500), None, Some(7))
        );
        assert_eq!(one.mark(), "network blue".parse().ok());
        assert_eq!((two.mtu.first(), two.mark()), (None, None));
        assert!(two.error.first().expect("an error").starts_with("could not open"));
        assert_eq!(replies[2].error.as_deref(), Some("constraint violation"));
    }
}
