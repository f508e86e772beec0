//! A guest that is one boot sector. It dirties memory at an exact rate and checks every page itself.
//!
//! On each tick of the PIT (100 Hz) it writes a number of pages of its region, in order, and before writing a page it
//! checks that the page still holds the number of the last pass. A page that a migration lost or left stale shows as a
//! line `E<address>` on the console. Every few ticks it prints `T<tick> <pass>`, both in hex. Between ticks it halts,
//! so its rate does not depend on the machine. It boots in under a second.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::Domain;

/// 4 KiB, as on any x86.
const PAGE: u64 = 4096;
const TICKS_PER_SECOND: u64 = 100;
/// Offsets of its parameters, all little-endian.
const REGION_START: usize = 4;
const PAGES: usize = 8;
const PAGES_PER_TICK: usize = 12;
const TICKS_PER_HEARTBEAT: usize = 16;

/// `reference/feasibility.md`, section 2, has the source. Zeros up to 510 follow, then the signature.
const CODE: &str = "\
eb1400000000400000400000400000000a0000009c2efa31c08ed88ed0bc007c\
b011e620b020e621b004e621b001e621b0fee621b0ffe6a1b034e643a1147ce6\
4088e0e6400f0116a77d0f20c00c010f22c066ea5a7c0000080066b810008ed8\
8ec08ed0bc007c0000b8887d000089c325ffff00000d00000800a30006000081\
e30000ffff81cb008e0000891d040600000f011dad7d00008b3d047c00008b0d\
087c0000c7070000000081c7001000004975f131f631ed8b3d047c00008b1508\
7c0000fbf4458b0d0c7c0000e30ae8470000004975f8eb0db900100000e83800\
00004975f889e85231d2f735107c000085d25a75cfb354e87700000089e8e84d\
000000b320e86900000089f0e83f000000b30ae85b000000ebaa39377519ff07\
81c7001000004a750d468b3d047c00008b15087c0000c38937b345e833000000\
89f8e809000000b30ae825000000ebce51b908000000c1c00488c380e30f80fb\
0a720380c32780c330e8050000004975e559c3525066bafd03eca82074fb66ba\
f80388d8ee585ac350b020e62058cf0000000000000000ffff0000009acf00ff\
ff00000092cf0017008f7d000007010005000000000000000000000000000000";

/// A guest that writes memory.
#[derive(Debug, Clone)]
pub struct BootSectorGuest {
    /// The domain around it. Its memory must hold the region, which begins at 4 MiB, with room to spare above.
    pub domain: Domain,
    /// The memory it writes, in MiB.
    pub region_mib: u32,
    /// Pages per tick: 64 are 25 MiB/s, 256 are 100 MiB/s. 0: as fast as it can.
    pub pages_per_tick: u32,
    /// A line on the console every so many ticks.
    pub ticks_per_heartbeat: u32,
}

impl BootSectorGuest {
    /// Writes 64 MiB at 25 MiB/s, in a guest of 128 MiB without a network.
    pub fn new(name: &str) -> Self {
        let domain = Domain { vif: None, ..Domain::new(name, 128) };
        Self { domain, region_mib: 64, pages_per_tick: 64, ticks_per_heartbeat: 10 }
    }

    /// The same, as near as can be to a rate in MiB/s; below 1 it would be free running.
    pub fn dirtying(mut self, mib_per_second: u32) -> Self {
        let pages = u64::from(mib_per_second) * (1 << 20) / PAGE / TICKS_PER_SECOND;
        self.pages_per_tick = u32::try_from(pages.max(1)).unwrap_or(u32::MAX);
        self
    }

    /// The same, with a region of this size, and memory for it.
    pub fn with_region(mut self, mib: u32) -> Self {
        self.region_mib = mib;
        self.domain.memory_mib = u64::from(mib) + 64;
        self
    }

    /// The domain's XML.
    pub fn xml(&self) -> String {
        self.domain.xml("<boot dev='hd'/>")
    }

    /// The same, booted from a volume that holds its [`BootSectorGuest::image`]: a `<disk>` element with the target `vda`.
    pub fn booted_from(mut self, volume: &str) -> Self {
        self.domain.boot_volume = Some(volume.to_owned());
        self
    }

    /// A raw image from which it boots.
    pub fn image(&self) -> Result<Vec<u8>> {
        let mut image = self.sector()?;
        image.resize(1 << 20, 0);
        Ok(image)
    }

    pub(super) fn write_files(&self, shared: &Path) -> Result<()> {
        let name = &self.domain.name;
        let _ = fs::remove_file(shared.join(format!("{name}.console")));
        if self.domain.boot_volume.is_some() {
            return Ok(());
        }
        fs::write(shared.join(format!("{name}.img")), self.image()?)
            .with_context(|| format!("cannot write the disk of {name}"))
    }

    /// The sector, with this guest's parameters.
    fn sector(&self) -> Result<Vec<u8>> {
        let mut sector = original()?;
        let pages = u32::try_from(u64::from(self.region_mib) * (1 << 20) / PAGE)?;
        let parameters = [
            (REGION_START, 4 << 20),
            (PAGES, pages),
            (PAGES_PER_TICK, self.pages_per_tick),
            (TICKS_PER_HEARTBEAT, self.ticks_per_heartbeat),
        ];
        for (offset, value) in parameters {
            sector[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        Ok(sector)
    }
}

fn original() -> Result<Vec<u8>> {
    let digits = CODE.as_bytes().chunks(2);
    let mut sector =
        digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect::<Result<Vec<_>>>()?;
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    Ok(sector)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn the_sector_is_the_one_that_was_proven() {
        let sector = original().expect("the constant is hex");
        assert_eq!(sector.len(), 512);
        let mut child =
            Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("coreutils");
        child.stdin.take().expect("piped").write_all(&sector).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let sum = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(sum.starts_with("539da3ad20c4567d9f05d91d562b4b859a45af377749c32622d556715c29b026"), "{sum}");
    }

    #[test]
    fn parameters_are_little_endian() {
        let guest = BootSectorGuest::new("dirty").dirtying(100).with_region(192);
        let sector = guest.sector().expect("it fits");
        assert_eq!(sector[8..12], 49_152_u32.to_le_bytes());
        assert_eq!(sector[12..16], 256_u32.to_le_bytes());
    }
}
