//! `docs/install.md` as somebody follows it: what stands in its blocks is done, in their order, on the host that the block's first line
//! names.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The page.
const PAGE: &str = include_str!("../../../docs/install.md");

/// A part of the page: a heading, and the blocks below it.
#[derive(Debug)]
pub(crate) struct Part {
    /// The heading's words.
    pub(crate) heading: String,
    /// What is to be done.
    pub(crate) blocks: Vec<Block>,
}

/// Something to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Where.
    pub(crate) hosts: Vec<String>,
    /// What.
    pub(crate) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Commands for a shell.
    Commands(String),
    /// A file with these contents.
    File(PathBuf, String),
}

/// The page's parts that have something to do.
pub(crate) fn parts() -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            parts.push(Part { heading: heading.to_owned(), blocks: Vec::new() });
        } else if let Some(language) = line.strip_prefix("```") {
            let first = lines.next().and_then(|line| line.strip_prefix("# ")).context("a block begins with `# `")?;
            let text: String =
                lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            let (file, hosts) = match language {
                "sh" => ("", first.strip_prefix("on ")),
                "toml" => first.split_once(" on ").map_or(("", None), |(file, hosts)| (file, Some(hosts))),
                other => anyhow::bail!("nobody knows what to do with {other}"),
            };
            let hosts = hosts.with_context(|| format!("on which host is `{first}`?"))?;
            let what = match file {
                "" => What::Commands(text),
                // As root's shell would have it.
                file => What::File(file.replacen('~', "/root", 1).into(), text),
            };
            let part = parts.last_mut().context("blocks are below headings")?;
            part.blocks.push(Block { hosts: hosts.split(" and ").map(str::to_owned).collect(), what });
        }
    }
    parts.retain(|part| !part.blocks.is_empty());
    ensure!(!parts.is_empty(), "the page says nothing");
    Ok(parts)
}
