//! A part of sysfs as it was in the kernel tests' machine, for tests.

use std::{fs, os::unix::fs::symlink};

use tempfile::TempDir;

/// Debian 12's kernel 6.1 and tgt: two portals of one target, LUNs 0, 1 and 2 by the first, 0 and 1 by the second, and
/// multipath over LUN 1. Only the files that are read here.
const RECORDING: &str = include_str!("recordings/sysfs.txt");

/// The recording, as files.
pub(super) fn recorded() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for line in RECORDING.lines().filter(|line| !line.starts_with('#')) {
        let [path, kind, contents] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("a line: {line}") };
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().expect("it is below the directory")).expect("it is ours");
        match kind {
            "->" => symlink(contents, &path).expect("it is ours"),
            "=" => fs::write(&path, format!("{contents}\n")).expect("it is ours"),
            "hex" => fs::write(&path, bytes(contents)).expect("it is ours"),
            other => panic!("a kind of line: {other}"),
        }
    }
    directory
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().map(|c| c.to_digit(16).expect("a hexadecimal digit")).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits are a byte")).collect()
}
