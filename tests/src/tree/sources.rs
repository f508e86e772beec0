//! Where packages come from: the machine's own apt sources, as far as they are Debian's.

use std::{fmt::Write as _, fs, path::PathBuf};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The machine's Debian sources for a suite as deb822; Debian's own servers if it has none (another distribution, say).
pub(super) fn sources(suite: &str) -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()));
    files.sort();
    let mut found = String::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => found += &from_lines(&text, suite),
            Some("sources") => found += &from_deb822(&text, suite),
            _ => {}
        }
    }
    if found.is_empty() {
        found += &stanza("http://deb.debian.org/debian", &[suite, &format!("{suite}-updates")], KEYRING);
        found += &stanza("http://deb.debian.org/debian-security", &[&format!("{suite}-security")], KEYRING);
    }
    found
}

/// Third parties like the release's name too; their component is not `main`, or the suite has a tail of its own.
fn is_debian(suite: &str, candidate: &str, components: &[&str]) -> bool {
    let tail = candidate.strip_prefix(suite);
    matches!(tail, Some("" | "-updates" | "-security")) && components.contains(&"main")
}

fn from_lines(text: &str, suite: &str) -> String {
    let mut found = String::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some(line) = line.trim().strip_prefix("deb ") else { continue };
        let (options, rest) = match line.trim_start().strip_prefix('[').and_then(|line| line.split_once(']')) {
            Some(parts) => parts,
            None => ("", line),
        };
        let keyring =
            options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).unwrap_or(KEYRING);
        let words: Vec<_> = rest.split_whitespace().collect();
        if let [uri, candidate, components @ ..] = words.as_slice()
            && is_debian(suite, candidate, components)
        {
            found += &stanza(uri, &[candidate], keyring);
        }
    }
    found
}

fn from_deb822(text: &str, suite: &str) -> String {
    let mut found = String::new();
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for paragraph in lines.join("\n").split("\n\n") {
        let field = |name: &str| {
            let line = paragraph.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
        };
        let components: Vec<_> = field("components").split_whitespace().collect();
        let suites: Vec<_> =
            field("suites").split_whitespace().filter(|candidate| is_debian(suite, candidate, &components)).collect();
        let wanted = field("types").split_whitespace().any(|kind| kind == "deb") && field("enabled") != "no";
        if wanted && !suites.is_empty() {
            let keyring = Some(field("signed-by")).filter(|path| path.starts_with('/')).unwrap_or(KEYRING);
            found += &stanza(field("uris"), &suites, keyring);
        }
    }
    found
}

fn stanza(uris: &str, suites: &[&str], keyring: &str) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "Types: deb\nURIs: {uris}\nSuites: {}\nComponents: main\nSigned-By: {keyring}\n\n",
        suites.join(" ")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::{from_deb822, from_lines};

    #[test]
    fn only_debian_itself_is_taken() {
        let list = "# comment\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror/debian bookworm main contrib # why\n\
                    deb https://download.docker.com/linux/debian bookworm stable\n\
                    deb http://apt.postgresql.org/pub bookworm-pgdg main\ndeb-src http://mirror/debian bookworm main\n";
        let expected =
            "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm\nComponents: main\nSigned-By: /k.gpg\n\n";
        assert_eq!(from_lines(list, "bookworm"), expected);
    }

    #[test]
    fn stanzas_keep_their_mirror_and_key() {
        let text = "Types: deb\n# snapshot\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates trixie\n\
                    Components: main contrib\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: https://deb.nodesource.com\n\
                    Suites: nodistro\nComponents: main\n";
        let expected = "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\
                        Signed-By: /k.gpg\n\n";
        assert_eq!(from_deb822(text, "bookworm"), expected);
    }
}
