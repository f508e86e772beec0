//! Over how many streams a guest's memory is sent at once.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How many streams carry a guest's memory at once. With more than one QEMU opens a main channel beside them, which carries what
/// is no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Streams(u8);

/// Not a number of streams.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no number of streams: write 1 to {most}; a CPU of each host is busy with each", most = Streams::MOST.0)]
pub struct InvalidStreams(String);

impl Streams {
    /// Memory and all else in one stream, as QEMU has it unless it is told otherwise.
    pub const ONE: Self = Self(1);
    /// More than that only cost memory and connections.
    pub const MOST: Self = Self(16);

    /// How many there are.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Whether QEMU opens streams of their own for memory.
    pub fn are_several(self) -> bool {
        self > Self::ONE
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::ONE
    }
}

impl From<Streams> for u32 {
    fn from(streams: Streams) -> Self {
        streams.0.into()
    }
}

impl TryFrom<u32> for Streams {
    type Error = InvalidStreams;

    fn try_from(number: u32) -> Result<Self, InvalidStreams> {
        let streams = u8::try_from(number).map(Self).ok();
        streams.filter(|streams| (Self::ONE..=Self::MOST).contains(streams)).ok_or(InvalidStreams(number.to_string()))
    }
}

impl FromStr for Streams {
    type Err = InvalidStreams;

    fn from_str(text: &str) -> Result<Self, InvalidStreams> {
        let number: u32 = text.parse().map_err(|_| InvalidStreams(text.escape_debug().to_string()))?;
        number.try_into()
    }
}

impl fmt::Display for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_few() {
        for (text, are_several) in [("1", false), ("2", true), ("16", true)] {
            let streams: Streams = text.parse().expect(text);
            assert_eq!((streams.to_string().as_str(), streams.are_several()), (text, are_several));
        }
        for wrong in ["", "0", "17", "-1", "4294967297", "four", "1.5"] {
            let error = wrong.parse::<Streams>().expect_err(wrong).to_string();
            assert!(error.contains("write 1 to 16"), "{error}");
        }
    }

    #[test]
    fn a_journal_of_before_has_one() {
        #[derive(Deserialize)]
        struct Of {
            #[serde(default)]
            streams: Streams,
        }
        let read = |text| serde_json::from_str::<Of>(text).map(|of| of.streams);
        assert_eq!(read("{}").ok(), Some(Streams::ONE));
        assert_eq!(read(r#"{"streams":4}"#).ok(), Streams::try_from(4).ok());
        assert!(read(r#"{"streams":0}"#).is_err());
    }
}
