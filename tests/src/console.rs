//! What a guest has printed: its heartbeats, and the pages it found wrong.

use std::{fs, io::ErrorKind, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};

pub use report::{Mount, Report};

use crate::wait;

mod report;

/// A guest's console: one file for its whole life, to which each host that runs it appends.
#[derive(Debug, Clone)]
pub struct Console {
    path: PathBuf,
}

/// A heartbeat of a Linux guest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heartbeat {
    /// Counts from 1.
    pub number: u64,
    /// The guest's uptime, as the guest has it.
    pub uptime: Duration,
}

/// A heartbeat of a boot-sector guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Ticks of 10 ms since its start.
    pub tick: u32,
    /// How often it has written its whole region.
    pub pass: u32,
}

impl Console {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Everything so far. Empty if there is no file yet.
    pub fn text(&self) -> Result<String> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        }
    }

    /// The last lines, for messages.
    pub fn tail(&self) -> String {
        let text = self.text().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// All heartbeats of a Linux guest.
    pub fn heartbeats(&self) -> Result<Vec<Heartbeat>> {
        Ok(lines(&self.text()?).filter_map(heartbeat).collect())
    }

    /// The numbers that a Linux guest has on its second disk or volume, by its own word.
    pub fn acknowledged(&self) -> Result<Vec<u64>> {
        Ok(lines(&self.text()?).filter_map(|line| line.strip_prefix("ACK ")?.parse().ok()).collect())
    }

    /// Whether each ping of a Linux guest was answered, within 2 s.
    pub fn pings(&self) -> Result<Vec<bool>> {
        Ok(lines(&self.text()?).filter_map(|line| Some(line.strip_prefix("PING ")? == "yes")).collect())
    }

    /// All heartbeats of a boot-sector guest.
    pub fn ticks(&self) -> Result<Vec<Tick>> {
        Ok(lines(&self.text()?).filter_map(tick).collect())
    }

    /// The addresses of pages that a boot-sector guest found lost or stale.
    pub fn bad_pages(&self) -> Result<Vec<String>> {
        Ok(lines(&self.text()?)
            .filter_map(|line| line.strip_prefix('E'))
            .filter(|address| is_hex(address))
            .map(str::to_owned)
            .collect())
    }

    /// Waits for a number of further heartbeats of a guest of either kind: it runs.
    pub fn wait_for_more(&self, count: usize, timeout: Duration) -> Result<()> {
        let seen = || Ok::<_, anyhow::Error>(self.heartbeats()?.len() + self.ticks()?.len());
        let wanted = seen()? + count;
        let what = format!("{count} more heartbeats in {}", self.path.display());
        let goes_on = wait::until(&what, timeout, || Ok((seen()? >= wanted).then_some(())));
        goes_on.with_context(|| format!("its console ends: {}", self.tail()))
    }

    /// Fails if a heartbeat of a Linux guest was lost or doubled, or if its clock went back.
    pub fn assert_steady(&self) -> Result<()> {
        let heartbeats = self.heartbeats()?;
        ensure!(!heartbeats.is_empty(), "no heartbeat in {}", self.path.display());
        for (expected, found) in (1..).zip(&heartbeats) {
            ensure!(found.number == expected, "heartbeat {} follows {}: lost or doubled", found.number, expected - 1);
        }
        for pair in heartbeats.windows(2) {
            let [before, after] = pair else { continue };
            ensure!(after.uptime >= before.uptime, "the guest's clock went back at heartbeat {}", after.number);
        }
        Ok(())
    }

    /// Fails if a boot-sector guest found a bad page, or if a tick's line was lost or doubled.
    pub fn assert_memory_intact(&self) -> Result<()> {
        let bad = self.bad_pages()?;
        ensure!(bad.is_empty(), "{} pages were lost or stale, the first at {}", bad.len(), bad[0]);
        let ticks = self.ticks()?;
        let first = ticks.first().with_context(|| format!("no heartbeat in {}", self.path.display()))?;
        for (count, tick) in (1..).zip(&ticks) {
            let expected = first.tick * count;
            ensure!(tick.tick == expected, "tick {} where {expected} was due: lines lost or doubled", tick.tick);
        }
        Ok(())
    }
}

/// Complete lines only: the last may still be in the making.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(|line| line.trim_end_matches('\r'))
}

fn heartbeat(line: &str) -> Option<Heartbeat> {
    let (number, uptime) = line.strip_prefix("HB ")?.split_once(' ')?;
    Some(Heartbeat { number: number.parse().ok()?, uptime: Duration::try_from_secs_f64(uptime.parse().ok()?).ok()? })
}

fn tick(line: &str) -> Option<Tick> {
    // SeaBIOS leaves escape sequences before the first.
    let (tick, pass) = line.get(line.rfind('T')? + 1..)?.split_once(' ')?;
    (is_hex(tick) && is_hex(pass)).then_some(())?;
    Some(Tick { tick: u32::from_str_radix(tick, 16).ok()?, pass: u32::from_str_radix(pass, 16).ok()? })
}

fn is_hex(word: &str) -> bool {
    word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn console(text: &str) -> (tempfile::NamedTempFile, Console) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("it has room");
        let console = Console::new(file.path().to_owned());
        (file, console)
    }

    #[test]
    fn a_lost_and_a_doubled_heartbeat_are_found() {
        let (_file, good) = console("SeaBIOS\r\nHB 1 0.50\r\nHB 2 0.61\r\nHB 3 0.");
        good.assert_steady().expect("an unfinished line is not a lost one");
        for text in ["HB 1 0.5\nHB 3 0.7\n", "HB 1 0.5\nHB 1 0.5\n", "HB 1 0.5\nHB 2 0.4\n", ""] {
            let (_file, console) = console(text);
            assert!(console.assert_steady().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_bad_page_is_found() {
        let (_file, good) = console("\x1b[2JT0000000a 00000000\nT00000014 00000001\n");
        good.assert_memory_intact().expect("nothing is wrong");
        assert_eq!(good.ticks().expect("readable")[1], Tick { tick: 20, pass: 1 });
        let (_file, bad) = console("T0000000a 00000000\nE00412000\nT00000014 00000001\n");
        assert_eq!(bad.bad_pages().expect("readable"), ["00412000"]);
        assert!(bad.assert_memory_intact().is_err());
    }
}
