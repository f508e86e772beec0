//! What many hosts have alike is kept once: the hosts of a fleet differ little in which guests they can run, and the lists are long.

use std::{collections::BTreeSet, sync::Arc};

use super::{Host, Machines, Offers};

/// Lists that hosts have, each once.
#[derive(Debug, Default)]
pub struct Alike {
    machines: BTreeSet<Arc<Machines>>,
    cpu_models: BTreeSet<Arc<BTreeSet<String>>>,
}

impl Alike {
    /// Lets the host have its lists with those that came before it.
    pub fn share(&mut self, host: &mut Host) {
        let Some(room) = &mut host.room else { return };
        let Offers { machines, cpu_models, .. } = &mut room.offers;
        keep(&mut self.machines, machines);
        keep(&mut self.cpu_models, cpu_models);
    }
}

fn keep<T: Ord>(kept: &mut BTreeSet<Arc<T>>, list: &mut Arc<T>) {
    match kept.get(list) {
        Some(same) => *list = Arc::clone(same),
        None => _ = kept.insert(Arc::clone(list)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_are_kept_once_and_others_stay_as_they_are() {
        let list = |names: &[&str]| Arc::new(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
        let mut kept = BTreeSet::new();
        let mut lists = [list(&["EPYC"]), list(&["EPYC"]), list(&["Nehalem", "EPYC"])];
        lists.iter_mut().for_each(|list| keep(&mut kept, list));
        assert!(Arc::ptr_eq(&lists[0], &lists[1]) && !Arc::ptr_eq(&lists[0], &lists[2]));
        assert_eq!((lists[1].len(), lists[2].len(), kept.len()), (1, 2, 2));
    }
}
