//! How a number of bytes is written down: as a number. [`ByteSize`] by itself writes `9.3 GiB`, and reads back another size.

use bytesize::ByteSize;
use serde::{Serialize as _, Serializer};

/// For `#[serde(serialize_with = …)]`. `ByteSize` reads numbers, and what was written before, by itself.
pub(crate) fn exact<S: Serializer>(bytes: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(bytes.as_u64())
}

/// The same, and `null` for what is not known.
pub(crate) fn exact_if_known<S: Serializer>(bytes: &Option<ByteSize>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.map(|bytes| bytes.as_u64()).serialize(serializer)
}
