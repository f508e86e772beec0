//! What a LUN says of itself, byte by byte: pages of vital product data (SPC-4 7.8) and READ CAPACITY (16) (SBC-3 5.16.2).

use bytesize::ByteSize;

pub(super) const SUPPORTED: u8 = 0x00;
pub(super) const SERIAL: u8 = 0x80;
pub(super) const IDENTIFICATION: u8 = 0x83;

/// Of every page.
const HEADER: usize = 4;

/// How long a page is, from its beginning.
pub(super) fn length(page: &[u8]) -> usize {
    let length = page.get(2..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes);
    HEADER + usize::from(length)
}

/// What a page holds, if it is the one that was asked for.
fn content(code: u8, page: &[u8]) -> &[u8] {
    let content = page.get(HEADER..length(page).min(page.len())).unwrap_or_default();
    if page.get(1) == Some(&code) { content } else { &[] }
}

/// Which pages there are.
pub(super) fn supported(page: &[u8]) -> &[u8] {
    content(SUPPORTED, page)
}

/// Names of the LUN itself, not of the port that was asked. Those in binary are left out, as they always were: hosts that compare
/// what they see may be of two versions.
pub(super) fn designators(page: &[u8]) -> Vec<String> {
    const ASCII: u8 = 2;
    const UTF8: u8 = 3;
    const OF_THE_LUN: u8 = 0;
    let mut names = Vec::new();
    let mut rest = content(IDENTIFICATION, page);
    while let [set, kind, _, length, after @ ..] = rest {
        let (name, others) = after.split_at(usize::from(*length).min(after.len()));
        rest = others;
        let name = words(name);
        if matches!(set & 0x0f, ASCII | UTF8) && (kind >> 4) & 0x03 == OF_THE_LUN && !name.is_empty() {
            names.push(name);
        }
    }
    names
}

/// The serial number, if it has one.
pub(super) fn serial(page: &[u8]) -> Option<String> {
    Some(readable(content(SERIAL, page)).trim().to_owned()).filter(|serial| !serial.is_empty())
}

/// The size, if it is one.
pub(super) fn size(capacity: &[u8]) -> Option<ByteSize> {
    let last = u64::from_be_bytes(capacity.get(..8)?.try_into().ok()?);
    let block = u32::from_be_bytes(capacity.get(8..12)?.try_into().ok()?);
    let size = last.checked_add(1)?.checked_mul(block.into())?;
    (size > 0).then_some(ByteSize::b(size))
}

/// Up to the first zero: it is padding.
fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn words(bytes: &[u8]) -> String {
    readable(bytes).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As tgt 1.0.85 has it: two names in binary, and one to be read.
    fn identification(association: u8) -> Vec<u8> {
        let mut page = vec![0, IDENTIFICATION, 0, 0];
        for (set, kind, name) in [
            (1, 3, &b"\x60\0\0\0\0\0\0\0\x0e\0\0\0\0\x01\0\x01"[..]),
            (1, 3, b"\x30\0\0\0\0\x01\0\x01"),
            (2, 1, b"IET     00010001\0\0\0\0"),
        ] {
            page.extend([set, association << 4 | kind, 0, name.len() as u8]);
            page.extend(name);
        }
        page[3] = (page.len() - HEADER) as u8;
        page
    }

    #[test]
    fn names_are_those_of_the_lun_that_can_be_read() {
        assert_eq!(designators(&identification(0)), ["IET 00010001"]);
        assert_eq!(designators(&identification(1)), [""; 0]);
        // Cut short, or another page.
        assert_eq!(designators(&identification(0)[..30]), [""; 0]);
        assert_eq!(designators(b"\0\x80\0\x06beaf11"), [""; 0]);
        assert_eq!(designators(&[]), [""; 0]);
    }

    #[test]
    fn a_serial_number_is_not_blank() {
        assert_eq!(serial(b"\0\x80\0\x08  beaf11").as_deref(), Some("beaf11"));
        assert_eq!(serial(b"\0\x80\0\x04beaf11").as_deref(), Some("beaf"));
        assert_eq!(serial(b"\0\x80\0\x08        "), None);
        assert_eq!(serial(&[0; 8]), None);
        assert_eq!(serial(&[]), None);
    }

    #[test]
    fn pages_are_as_long_as_they_say() {
        assert_eq!(supported(&[0, 0, 0, 3, 0x00, 0x80, 0x83, 0xff]), [0x00, 0x80, 0x83]);
        assert_eq!(supported(&[0, 0, 0, 9, 0x00]), [0x00]);
        assert_eq!(length(&[0, 0, 1, 2]), 262);
        assert_eq!(length(&[]), HEADER);
    }

    #[test]
    fn a_size_is_of_all_blocks() {
        let capacity = |last: u64, block: u32| [&last.to_be_bytes()[..], &block.to_be_bytes(), &[0; 20]].concat();
        assert_eq!(size(&capacity(16_383, 512)), Some(ByteSize::mib(8)));
        assert_eq!(size(&capacity(u64::MAX, 512)), None);
        assert_eq!(size(&capacity(u64::MAX - 1, 512)), None);
        assert_eq!(size(&capacity(0, 0)), None);
        assert_eq!(size(&[]), None);
    }
}
