use bytesize::ByteSize;
use serde::Deserialize;
use vmferry_core::host;

use super::check;

/// What this host gives its guests at most, all together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// Memory of the host that no guest gets.
    pub memory_reserve: ByteSize,
    /// How many times the rest may be promised.
    pub memory_overcommit: f64,
    /// How many vCPUs may be promised for each logical CPU.
    pub cpu_overcommit: f64,
    /// Guests that may run. None: as many as there is room for.
    pub instances: Option<u32>,
    /// Migrations that may come at the same time.
    pub incoming: u32,
    /// Migrations that may leave at the same time.
    pub outgoing: u32,
}

impl Capacity {
    /// What a host gives that has so much memory and so many logical CPUs.
    pub fn of(&self, total: ByteSize, cpus: usize) -> host::Capacity {
        let free = total.as_u64().saturating_sub(self.memory_reserve.as_u64());
        let Self { instances, incoming, outgoing, .. } = *self;
        host::Capacity {
            memory: ByteSize::b((free as f64 * self.memory_overcommit) as u64),
            vcpus: (cpus as f64 * self.cpu_overcommit) as u32,
            instances,
            incoming,
            outgoing,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct CapacityTable {
    memory_reserve: Option<String>,
    memory_overcommit: Option<f64>,
    cpu_overcommit: Option<f64>,
    instances: Option<u32>,
    incoming: Option<u32>,
    outgoing: Option<u32>,
}

/// Every problem is added to the others.
pub(super) fn capacity(problems: &mut Vec<String>, table: CapacityTable) -> Option<Capacity> {
    let reserve = table.memory_reserve.unwrap_or_else(|| "512MiB".into());
    let key = "capacity.memory_reserve";
    let memory_reserve = check(problems, Some(reserve), key, "an amount of memory, e.g. \"2GiB\"", |text| {
        text.parse::<ByteSize>().map_err(|error| format!("`{text}`: {error}"))
    });
    // Memory that was promised twice is only missed when both ask for it; CPUs are shared every day.
    let ratios = [
        ("capacity.memory_overcommit", table.memory_overcommit.unwrap_or(1.0)),
        ("capacity.cpu_overcommit", table.cpu_overcommit.unwrap_or(16.0)),
    ];
    let [memory_overcommit, cpu_overcommit] = ratios.map(|(key, ratio)| {
        check(problems, Some(ratio), key, "a number above 0, e.g. 1.5", |ratio| {
            if ratio.is_finite() && ratio > 0.0 { Ok(ratio) } else { Err(format!("is {ratio}")) }
        })
    });
    let limits =
        [("capacity.incoming", table.incoming.unwrap_or(4)), ("capacity.outgoing", table.outgoing.unwrap_or(4))];
    let [incoming, outgoing] = limits.map(|(key, limit)| {
        let wanted = "a number above 0; vmferry cordon is what keeps guests from coming";
        check(problems, Some(limit), key, wanted, |limit| if limit > 0 { Ok(limit) } else { Err("is 0".into()) })
    });
    Some(Capacity {
        memory_reserve: memory_reserve?,
        memory_overcommit: memory_overcommit?,
        cpu_overcommit: cpu_overcommit?,
        instances: table.instances,
        incoming: incoming?,
        outgoing: outgoing?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Capacity, Vec<String>> {
        let mut problems = Vec::new();
        let read = capacity(&mut problems, toml::from_str(text).expect("TOML"));
        read.filter(|_| problems.is_empty()).ok_or(problems)
    }

    #[test]
    fn nothing_need_be_said() {
        let given = read("").expect("whole");
        assert_eq!((given.memory_reserve, given.instances, given.incoming), (ByteSize::mib(512), None, 4));
        let given =
            read("memory_reserve = '4GiB'\nmemory_overcommit = 1.5\ninstances = 7\noutgoing = 1").expect("whole");
        assert_eq!((given.memory_reserve, given.instances, given.outgoing), (ByteSize::gib(4), Some(7), 1));
        assert!(given.memory_overcommit > 1.4);
    }

    #[test]
    fn what_cannot_be_is_refused_all_at_once() {
        let problems =
            read("memory_reserve = 'much'\nmemory_overcommit = 0.0\ncpu_overcommit = nan\nincoming = 0\noutgoing = 0")
                .expect_err("all wrong");
        assert_eq!(problems.len(), 5, "{problems:#?}");
    }

    fn configured() -> Capacity {
        Capacity {
            memory_reserve: ByteSize::gib(2),
            memory_overcommit: 1.5,
            cpu_overcommit: 2.5,
            instances: Some(7),
            incoming: 4,
            outgoing: 3,
        }
    }

    #[test]
    fn what_may_be_promised_is_what_the_reserve_leaves_times_what_it_may_be_overcommitted_by() {
        let given = configured().of(ByteSize::gib(10), 3);
        let expected =
            host::Capacity { memory: ByteSize::gib(12), vcpus: 7, instances: Some(7), incoming: 4, outgoing: 3 };
        assert_eq!(given, expected);
        assert_eq!(configured().of(ByteSize::gib(1), 3).memory, ByteSize::b(0), "less than its reserve");
    }
}
