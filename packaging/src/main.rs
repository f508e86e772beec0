//! Writes what packages hold besides programs and files of this repository: manual pages and completions, from what the programs'
//! command lines are, and Debian's changelog. `make packages` runs it. Nothing of it is in the programs.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _, Parser};
use clap_complete::Shell;
use clap_mangen::Man;
use jiff::{Timestamp, fmt::rfc2822, tz::TimeZone};
use vmferry_agent::arguments::Arguments as AgentArguments;

/// Writes manual pages, completions and Debian's changelogs.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to: man/, completions/ and changelogs are written there.
    directory: PathBuf,
    /// When this version was made, in seconds since 1970: that of its commit, so that the same source makes the same packages.
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", default_value_t = 0)]
    date: i64,
}

/// Of the packages: Debian's has a revision.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-1");

/// Who answers for the packages.
const MAINTAINER: &str = "VMFerry developers <vmferry@users.noreply.github.com>";

/// A program of a package.
struct Program {
    command: Command,
    /// The manual's section: 1 for what everybody runs, 8 for what is the administrator's.
    section: &'static str,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let made = Timestamp::from_second(arguments.date)?;
    for program in programs() {
        write_manual(&program, made, &arguments.directory.join("man"))?;
        write_completions(&program, &arguments.directory.join("completions"))?;
        let name = program.command.get_name();
        let changelog = changelog(name, VERSION, made)?;
        write(&arguments.directory.join(format!("{name}.changelog")), &changelog)?;
    }
    Ok(())
}

fn programs() -> [Program; 2] {
    [
        Program { command: vmferry::command_line(), section: "1" },
        Program { command: AgentArguments::command(), section: "8" },
    ]
}

/// A page for the program, and for each of its commands: `vmferry-migrate(1)`.
fn write_manual(program: &Program, made: Timestamp, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    // Every command has those of the program: said once, there.
    let mut command = program.command.clone().disable_help_subcommand(true);
    command.build();
    write_pages(&command, program.section, &made.strftime("%Y-%m-%d").to_string(), directory)
}

fn write_pages(command: &Command, section: &str, date: &str, directory: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let page = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(section)
        .date(date)
        .source(concat!("VMFerry ", env!("CARGO_PKG_VERSION")))
        .manual("VMFerry");
    let path = directory.join(format!("{name}.{section}"));
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    page.render(&mut file)?;
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_pages(command, section, date, directory)?;
    }
    Ok(())
}

/// Under the names by which the shells look for them.
fn write_completions(program: &Program, directory: &Path) -> Result<()> {
    let name = program.command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut program.command.clone(), &name, &mut text);
        let file = match shell {
            Shell::Zsh => format!("_{name}"),
            Shell::Fish => format!("{name}.fish"),
            _ => name.clone(),
        };
        write(&directory.join(shell.to_string()).join(file), &text)?;
    }
    Ok(())
}

/// What Debian wants to be told of this package; of VMFerry, the other changelog tells.
fn changelog(package: &str, version: &str, made: Timestamp) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let date = rfc2822::to_string(&made.to_zoned(TimeZone::UTC))?;
    writeln!(text, "{package} ({version}) unstable; urgency=medium\n")?;
    writeln!(text, "  * A build of this version. What it changes: changelog.gz.\n")?;
    writeln!(text, " -- {MAINTAINER}  {date}")?;
    Ok(text)
}

fn write(path: &Path, contents: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, contents).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page_and_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        for program in programs() {
            write_manual(&program, Timestamp::UNIX_EPOCH, directory.path()).expect("written");
        }
        let entries = fs::read_dir(directory.path()).expect("a directory");
        let pages: BTreeSet<_> =
            entries.map(|entry| entry.expect("a page").file_name().into_string().expect("a name")).collect();
        for page in ["vmferry.1", "vmferry-migrate.1", "vmferry-instance-policy-set.1", "vmferry-agent.8"] {
            assert!(pages.contains(page), "{page} in {pages:?}");
        }
        // What the agent starts itself again for is nobody else's to start.
        assert!(!pages.iter().any(|page| page.contains("carry") || page.contains("look-at")), "{pages:?}");
    }

    #[test]
    fn a_page_says_how_a_command_is_called_and_with_what() {
        let directory = tempfile::tempdir().expect("a directory");
        let [vmferry, _] = programs();
        write_manual(&vmferry, Timestamp::UNIX_EPOCH, directory.path()).expect("written");
        let page = fs::read_to_string(directory.path().join("vmferry-migrate.1")).expect("a page");
        for words in
            [".TH VMFERRY-MIGRATE 1 1970-01-01", "\\fBvmferry migrate\\fR", "\\-\\-dry\\-run", "Ctrl\\-C aborts"]
        {
            assert!(page.contains(words), "{words} in {page}");
        }
    }

    #[test]
    fn completions_are_where_shells_look_for_them() {
        let directory = tempfile::tempdir().expect("a directory");
        for program in programs() {
            write_completions(&program, directory.path()).expect("written");
        }
        for file in ["bash/vmferry", "zsh/_vmferry", "fish/vmferry.fish", "bash/vmferry-agent"] {
            let text = fs::read_to_string(directory.path().join(file)).expect(file);
            assert!(text.contains(if file.contains("agent") { "check-config" } else { "migrations" }), "{file}");
        }
    }

    #[test]
    fn debians_changelog_has_its_form() {
        let text = changelog("vmferry", "0.1.0-1", Timestamp::UNIX_EPOCH).expect("written");
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(text.starts_with("vmferry (0.1.0-1) unstable; urgency=medium\n\n  * "), "{text}");
        assert!(
            text.ends_with(
                "\n\n -- VMFerry developers <vmferry@users.noreply.github.com>  Thu, 1 Jan 1970 00:00:00 +0000\n"
            ),
            "{text}"
        );
    }
}
