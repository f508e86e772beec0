//! What the guest says of itself on the wire: frames that it numbers, each seen where it leaves a host. A guest that runs twice says a number
//! twice, or goes on where it was left.

use std::collections::{BTreeMap, BTreeSet};

use crate::capture::Seen;

/// What was heard in a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Heard {
    /// The hosts that sent each number.
    numbers: BTreeMap<u32, BTreeSet<usize>>,
}

impl Heard {
    /// Adds the frames that a host sent.
    pub(crate) fn add(&mut self, host: usize, seen: &[Seen]) {
        for mark in seen.iter().filter_map(|seen| seen.mark) {
            self.numbers.entry(mark.sequence).or_default().insert(host);
        }
    }

    /// Where it was heard last, by its own count.
    pub(crate) fn last(&self) -> Option<usize> {
        self.numbers.last_key_value()?.1.last().copied()
    }

    /// Why it must have run twice, if it has. In one run it may change its host once.
    pub(crate) fn is_double(&self) -> Option<String> {
        let twice: Vec<_> =
            self.numbers.iter().filter(|(_, hosts)| hosts.len() > 1).map(|(number, _)| number).collect();
        if let (Some(first), Some(last)) = (twice.first(), twice.last()) {
            return Some(format!("{} frames were sent from both hosts, numbers {first} to {last}", twice.len()));
        }
        let hosts: Vec<_> = self.numbers.values().flatten().collect();
        let changes = hosts.windows(2).filter(|pair| pair[0] != pair[1]).count();
        (changes > 1).then(|| format!("it changed its host {changes} times, by the numbers of its frames"))
    }

    /// How many frames.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::frames::{Kind, Mark};

    fn heard(hosts: [&[u32]; 2]) -> Heard {
        let mut heard = Heard::default();
        for (host, numbers) in hosts.into_iter().enumerate() {
            let seen: Vec<_> = numbers
                .iter()
                .map(|&sequence| Seen {
                    at: Instant::now(),
                    source: [0; 6],
                    mark: Some(Mark { kind: Kind::Honest, sequence }),
                    tcp: None,
                })
                .collect();
            heard.add(host, &seen);
        }
        heard
    }

    #[test]
    fn a_guest_that_moves_or_stays_or_loses_frames_ran_once() {
        for hosts in [[&[1, 2, 3][..], &[4, 5]], [&[1, 3], &[]], [&[], &[]], [&[7, 8], &[1, 2]]] {
            assert_eq!(heard(hosts).is_double(), None, "{hosts:?}");
        }
        assert_eq!(heard([&[1, 2], &[4]]).last(), Some(1));
    }

    #[test]
    fn a_guest_that_runs_twice_is_heard_twice_or_by_turns() {
        for hosts in [[&[1, 2, 3][..], &[3, 4]], [&[1, 3, 5], &[2, 4]], [&[1, 5], &[3]]] {
            assert!(heard(hosts).is_double().is_some(), "{hosts:?}");
        }
    }
}
