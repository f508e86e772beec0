//! What a job told of itself, for those who watch it, however late they come.

use std::collections::VecDeque;

use vmferry_core::migration::Progress;

/// How many are kept: at four a second, those of 17 minutes.
const KEPT: usize = 4_096;

/// A job's newest samples, numbered from 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    kept: VecDeque<Progress>,
    /// How many were forgotten.
    forgotten: u64,
    is_over: bool,
}

impl Samples {
    pub(super) fn push(&mut self, sample: Progress) {
        let before = self.kept.back().map_or(0, |last| last.percent);
        self.kept.push_back(sample.after(before));
        if self.kept.len() > KEPT {
            self.kept.pop_front();
            self.forgotten += 1;
        }
    }

    pub(super) fn end(&mut self) {
        self.is_over = true;
    }

    /// The newest, while the job runs.
    pub fn newest(&self) -> Option<Progress> {
        self.kept.back().copied().filter(|_| !self.is_over)
    }

    /// Those that are kept and have a higher number, each with its own. A number that was never given, as another process of the
    /// agent may have, is as good as none.
    pub fn after(&self, number: u64) -> Vec<(u64, Progress)> {
        let last = self.forgotten + self.kept.len() as u64;
        let known = if number > last { 0 } else { number };
        let numbered = (self.forgotten + 1..).zip(self.kept.iter().copied());
        numbered.filter(|(number, _)| *number > known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32) -> Progress {
        Progress { round, ..Progress::default() }
    }

    #[test]
    fn who_comes_again_misses_nothing_and_gets_nothing_twice() {
        let mut samples = Samples::default();
        (1..=5).for_each(|round| samples.push(sample(round)));
        assert_eq!(samples.after(3), [(4, sample(4)), (5, sample(5))]);
        assert_eq!(samples.after(5), []);
        assert_eq!(samples.after(0).len(), 5);
        assert_eq!(samples.after(99).len(), 5, "of another life of the agent");
        assert_eq!(samples.newest(), Some(sample(5)));
        samples.end();
        assert_eq!((samples.newest(), samples.after(4).len()), (None, 1));
    }

    #[test]
    fn only_the_newest_are_kept() {
        let mut samples = Samples::default();
        let all = u32::try_from(KEPT).expect("few") + 10;
        (1..=all).for_each(|round| samples.push(sample(round)));
        let kept = samples.after(0);
        assert_eq!((kept.len(), kept[0]), (KEPT, (11, sample(11))));
    }
}
