//! How a number of bytes is written down: as a number. [`ByteSize`] by itself writes `9.3 GiB`, and reads back another size.

use bytesize::ByteSize;
use serde::Serializer;

/// For `#[serde(serialize_with = …)]`. `ByteSize` reads numbers, and what was written before, by itself.
pub(crate) fn exact<S: Serializer>(bytes: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(bytes.as_u64())
}
