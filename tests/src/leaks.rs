//! A look at a host, to be compared with an earlier one: when no migration is active, nothing of any may be left (I2).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Result, bail};

use crate::host::Host;

/// What to look at, and the command that lists it, a line for each item.
const LOOKS: &[(&str, &str)] = &[
    ("domain", "virsh -q -c qemu:///system list --all --name | grep . || true"),
    ("secret", "virsh -q -c qemu:///system secret-list | awk '{print $1}'"),
    ("libvirt filter", "virsh -q -c qemu:///system nwfilter-list | awk '{print $2}'"),
    ("qemu process", "pgrep -a qemu-system | grep -o 'guest=[^,]*' || true"),
    // The directory of directories stays; one of a migration does not. What carries tunnels waits a while for the next.
    (
        "file",
        "find /run/vmferry -mindepth 1 ! -path /run/vmferry/migrations ! -path '/run/vmferry/carriers*' -printf '%p %y\\n' \
         2>/dev/null || true",
    ),
    (
        "probe file",
        "find /srv /var/lib/vmferry/probes -name '.vmferry-probe-*' -o -path '*/vmferry/probes/*' 2>/dev/null || true",
    ),
    ("image", "find /srv/local -mindepth 1"),
    ("disk copier", "pgrep -a '^qemu-(nbd|img)' || true"),
    // Records of ended migrations are kept on purpose.
    (
        "open journal",
        "find /var/lib/vmferry/journal -name '*.jsonl' ! -exec grep -q '^{\"ended\"' {} \\; -print 2>/dev/null || true",
    ),
    ("TCP listener", "ss -Hltn | awk '{print $4}'"),
    ("UNIX listener", "ss -Hlx | awk '$5 ~ /vmferry/ && $5 !~ /vmferry.carriers/ {print $5}'"),
    ("TCP connection", "ss -Htn state established | awk '{print $4}'"),
    // libvirt numbers its taps upwards for ever, VMFerry names those that it filters; they are told apart by their address,
    // which follows from the guest's.
    (
        "link",
        "ip -o link | awk '{ name = $2; sub(/[:@].*/, \"\", name)
            if (name ~ /^(vnet|vmft)/ && match($0, /link.ether [^ ]+/)) name = \"tap \" substr($0, RSTART + 11, RLENGTH - 11)
            print name }'",
    ),
    ("firewall rule", "nft list ruleset | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'"),
    ("mount", "findmnt -rno TARGET | grep -v '^/run/\\(user\\|credentials\\)' || true"),
];

/// Between what two of them list.
const END: &str = "----------";

/// What was on a host at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    host: String,
    items: BTreeMap<&'static str, BTreeSet<String>>,
}

/// Something that was there at one time and not at the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is: `domain`, `file`, `TCP listener` …
    pub kind: &'static str,
    /// Its name, path or address.
    pub item: String,
    /// Whether it has come since. Otherwise it has gone.
    pub came: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind, if self.came { "more" } else { "less" }, self.item)
    }
}

impl Snapshot {
    /// Looks now.
    pub(crate) fn take(host: &Host) -> Result<Self> {
        // libvirtd goes to sleep when idle; a look must not depend on whether it is awake.
        let script: String = LOOKS.iter().map(|(_, command)| format!("{command}\necho {END}\n")).collect();
        let text = host.sh(&script)?;
        let lines =
            |part: &str| part.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        let items = LOOKS.iter().zip(text.split(END)).map(|((kind, _), part)| (*kind, lines(part))).collect();
        Ok(Self { host: host.name().to_owned(), items })
    }

    /// The names or paths of one kind.
    pub fn items(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.items.get(kind).into_iter().flatten().map(String::as_str)
    }

    /// What has come and gone since `earlier`.
    pub fn since(&self, earlier: &Self) -> Vec<Difference> {
        let nothing = BTreeSet::new();
        let mut differences = Vec::new();
        for (kind, _) in LOOKS {
            let (before, after) =
                (earlier.items.get(kind).unwrap_or(&nothing), self.items.get(kind).unwrap_or(&nothing));
            let came = after.difference(before).map(|item| (item, true));
            let gone = before.difference(after).map(|item| (item, false));
            differences.extend(came.chain(gone).map(|(item, came)| Difference { kind, item: item.clone(), came }));
        }
        differences
    }

    /// Fails with the list if anything has come since `earlier` that `is_expected` does not know.
    pub fn assert_nothing_new(&self, earlier: &Self, is_expected: impl Fn(&Difference) -> bool) -> Result<()> {
        let leaks: Vec<_> =
            self.since(earlier).into_iter().filter(|d| d.came && !is_expected(d)).map(|d| d.to_string()).collect();
        if !leaks.is_empty() {
            bail!("left on {}:\n  {}", self.host, leaks.join("\n  "));
        }
        Ok(())
    }
}
