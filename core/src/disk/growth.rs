//! How long an image's file may become while its guest still runs.

use bytesize::ByteSize;

use super::Image;

/// For what is written to a qcow2 image besides: header, tables, a snapshot table, bitmaps. Far more than they take.
const BESIDES: u64 = 1 << 20;

/// How long the file of this image, now `length` bytes long, can be at most when the guest stops. A raw image's length is
/// the disk's; a qcow2 image holds at most every cluster of the disk and what tells where each of them is.
pub(super) fn longest(image: &Image, length: u64) -> ByteSize {
    let Some(qcow2) = &image.qcow2 else { return ByteSize::b(length) };
    let size = image.virtual_size.as_u64();
    let cluster = qcow2.cluster_size.max(512);
    let whole = |bytes: u64| bytes.div_ceil(cluster).saturating_mul(cluster);
    let entries = whole(size.div_ceil(cluster).saturating_mul(if qcow2.extended_l2 { 16 } else { 8 }));
    let counted = whole(size).saturating_add(entries).div_ceil(cluster);
    // Reference counts count their own clusters, too: twice is more than that adds.
    let counts = whole(counted.saturating_mul(u64::from(qcow2.refcount_bits).div_ceil(8))).saturating_mul(2);
    let full = [whole(size), entries, counts, size >> 16, BESIDES].into_iter().fold(0, u64::saturating_add);
    ByteSize::b(full.max(length.saturating_add(BESIDES)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Qcow2;

    fn image(qcow2: Option<Qcow2>) -> Image {
        Image {
            path: "/srv/web".into(),
            format: "qcow2".into(),
            virtual_size: ByteSize::gib(1),
            allocated: ByteSize::mib(1),
            qcow2,
            obstacle: None,
        }
    }

    fn qcow2(cluster_size: u64) -> Option<Qcow2> {
        Some(Qcow2 {
            cluster_size,
            compat: "1.1".into(),
            lazy_refcounts: false,
            extended_l2: false,
            refcount_bits: 16,
            compression_type: "zlib".into(),
        })
    }

    #[test]
    fn a_raw_image_does_not_grow() {
        assert_eq!(longest(&image(None), 12_345), ByteSize::b(12_345));
    }

    /// `qemu-img measure -O qcow2 --size 1G`, fully allocated: 1074135040; with clusters of 512 bytes: 1095127040.
    #[test]
    fn a_qcow2_image_may_grow_to_what_qemu_measures_and_hardly_more() {
        for (cluster, measured) in [(65_536, 1_074_135_040), (512, 1_095_127_040)] {
            let longest = longest(&image(qcow2(cluster)), 200_704).as_u64();
            assert!(longest >= measured && longest < measured + measured / 50, "{cluster}: {longest}, not {measured}");
        }
    }

    #[test]
    fn one_that_is_longer_already_may_grow_still() {
        assert_eq!(longest(&image(qcow2(65_536)), 1 << 40), ByteSize::b((1 << 40) + BESIDES));
    }
}
