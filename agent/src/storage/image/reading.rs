//! What `qemu-img info --output=json` says of an image.

use bytesize::ByteSize;
use serde::Deserialize;

use super::{BackingName, ImageInfo, Qcow2};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Said {
    virtual_size: u64,
    actual_size: u64,
    cluster_size: Option<u64>,
    backing_filename: Option<String>,
    backing_filename_format: Option<String>,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    snapshots: Vec<serde::de::IgnoredAny>,
    format_specific: Option<FormatSpecific>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", tag = "type", content = "data")]
enum FormatSpecific {
    Qcow2(Qcow2Data),
    #[serde(untagged)]
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Qcow2Data {
    compat: String,
    #[serde(default)]
    lazy_refcounts: bool,
    #[serde(default)]
    extended_l2: bool,
    refcount_bits: u8,
    // QEMU before 5.1 knows but one.
    #[serde(default = "zlib")]
    compression_type: String,
    data_file: Option<String>,
}

fn zlib() -> String {
    "zlib".to_owned()
}

/// Reads it. `length` is what the file system says.
pub(super) fn parse(json: &str, length: ByteSize) -> serde_json::Result<ImageInfo> {
    let said: Said = serde_json::from_str(json)?;
    let (qcow2, data_file) = match (said.format_specific, said.cluster_size) {
        (Some(FormatSpecific::Qcow2(data)), Some(cluster_size)) => {
            let qcow2 = Qcow2 {
                cluster_size,
                compat: data.compat,
                lazy_refcounts: data.lazy_refcounts,
                extended_l2: data.extended_l2,
                refcount_bits: data.refcount_bits,
                compression_type: data.compression_type,
            };
            (Some(qcow2), data.data_file)
        }
        _ => (None, None),
    };
    Ok(ImageInfo {
        virtual_size: ByteSize(said.virtual_size),
        allocated: ByteSize(said.actual_size),
        length,
        backing: said.backing_filename.map(|file| BackingName { file, format: said.backing_filename_format }),
        qcow2,
        data_file,
        encrypted: said.encrypted,
        snapshots: said.snapshots.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // As QEMU 10.0 prints them, less the children.
    const LAYER: &str = r#"{
        "backing-filename-format": "raw", "virtual-size": 5000192, "filename": "layer.qcow2", "cluster-size": 131072,
        "format": "qcow2", "actual-size": 397312,
        "format-specific": {"type": "qcow2", "data": {"compat": "1.1", "compression-type": "zlib",
            "lazy-refcounts": true, "refcount-bits": 16, "corrupt": false, "extended-l2": true}},
        "full-backing-filename": "nothere.raw", "backing-filename": "nothere.raw", "dirty-flag": false}"#;
    const RAW: &str = r#"{"virtual-size": 16777216, "filename": "base.raw", "format": "raw", "actual-size": 4096,
        "format-specific": {"type": "file", "data": {}}, "dirty-flag": false}"#;
    const OLD: &str = r#"{
        "snapshots": [{"vm-clock-nsec": 0, "name": "before", "date-sec": 1795340000, "date-nsec": 0,
            "vm-clock-sec": 0, "id": "1", "vm-state-size": 0}],
        "virtual-size": 8388608, "filename": "old.qcow2", "cluster-size": 65536, "format": "qcow2", "encrypted": true,
        "actual-size": 200704, "format-specific": {"type": "qcow2", "data": {"compat": "0.10",
            "compression-type": "zlib", "refcount-bits": 16, "data-file": "/srv/data.raw"}}, "dirty-flag": false}"#;

    #[test]
    fn a_layer_says_what_it_lies_on_and_how_it_is_made() {
        let info = parse(LAYER, ByteSize(393_728)).expect("as QEMU prints it");
        assert_eq!(info.virtual_size, ByteSize(5_000_192));
        assert_eq!((info.allocated, info.length), (ByteSize(397_312), ByteSize(393_728)));
        assert_eq!(info.backing, Some(BackingName { file: "nothere.raw".into(), format: Some("raw".into()) }));
        let qcow2 = info.qcow2.expect("it is one");
        assert_eq!((qcow2.cluster_size, qcow2.compat.as_str(), qcow2.refcount_bits), (131_072, "1.1", 16));
        assert!(qcow2.lazy_refcounts && qcow2.extended_l2);
        assert_eq!((info.data_file, info.encrypted, info.snapshots), (None, false, 0));
    }

    #[test]
    fn what_a_copy_by_blocks_would_lose_is_seen() {
        let info = parse(OLD, ByteSize(200_704)).expect("as QEMU prints it");
        assert_eq!((info.data_file.as_deref(), info.encrypted, info.snapshots), (Some("/srv/data.raw"), true, 1));
        assert!(!info.qcow2.expect("it is one").lazy_refcounts);
    }

    #[test]
    fn a_raw_image_has_nothing_but_its_sizes() {
        let info = parse(RAW, ByteSize(16_777_216)).expect("as QEMU prints it");
        assert_eq!((info.virtual_size, info.allocated), (ByteSize(16_777_216), ByteSize(4096)));
        assert_eq!((info.backing, info.qcow2), (None, None));
        parse(r#"{"filename": "base.raw"}"#, ByteSize(0)).expect_err("no sizes");
    }
}
