//! What of its host a guest is tied to: the pages that its memory lies in, and the CPUs that it may run on.

use std::collections::{BTreeMap, BTreeSet};

use bytesize::ByteSize;
use roxmltree::Node;

use super::{child, text};

/// The highest number of a CPU that libvirt keeps in its lists.
const LAST_CPU: u32 = 16_383;

/// Huge pages that a guest's memory lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugePages {
    /// Their size in KiB. None: the definition leaves it to the host, whose kernel has a size of its own that it prefers.
    pub size: Option<u64>,
    /// How much of the guest's memory lies in them.
    pub memory: ByteSize,
}

impl HugePages {
    /// How many pages of that size in KiB hold the memory. None: there are no pages of no size.
    pub fn count(&self, size: u64) -> Option<u64> {
        size.checked_mul(1 << 10).filter(|bytes| *bytes > 0).map(|bytes| self.memory.as_u64().div_ceil(bytes))
    }
}

/// The huge pages of a `<domain>` with so much memory, one entry a size. What is in none of them lies in ordinary pages.
pub(super) fn huge_pages(domain: Node<'_, '_>, memory: ByteSize) -> Vec<HugePages> {
    let Some(asked) = child(domain, "memoryBacking").and_then(|backing| child(backing, "hugepages")) else {
        return Vec::new();
    };
    let pages: Vec<Page> = named(asked, "page").map(page).collect();
    if pages.is_empty() {
        return vec![HugePages { size: None, memory }];
    }
    let mut by_size = BTreeMap::<u64, u64>::new();
    for (node, memory) in nodes(domain, memory) {
        let own = pages.iter().find(|page| page.nodes.as_ref().is_some_and(|nodes| nodes.contains(&node)));
        let page = own.or_else(|| pages.iter().find(|page| page.nodes.is_none()));
        if let Some(size) = page.and_then(|page| page.size) {
            *by_size.entry(size).or_default() += memory.as_u64();
        }
    }
    by_size.into_iter().map(|(size, memory)| HugePages { size: Some(size), memory: ByteSize::b(memory) }).collect()
}

/// The numbers of all CPUs of the host that the guest's threads are pinned to.
pub(super) fn pinned_cpus(domain: Node<'_, '_>) -> BTreeSet<u32> {
    let tuned = child(domain, "cputune").into_iter().flat_map(|tune| tune.children());
    let tuned = tuned.filter(|node| ["vcpupin", "emulatorpin", "iothreadpin"].contains(&node.tag_name().name()));
    // Where libvirt asks numad, it ignores the list.
    let vcpus = child(domain, "vcpu").filter(|vcpu| vcpu.attribute("placement") != Some("auto"));
    let lists = vcpus.into_iter().chain(tuned).filter_map(|node| node.attribute("cpuset"));
    lists.filter_map(cpu_list).flatten().collect()
}

/// A number of bytes as libvirt writes it: KiB unless `unit` says otherwise.
pub(super) fn bytes(number: u64, unit: Option<&str>) -> Option<ByteSize> {
    let unit = match unit.unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1_000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit).map(ByteSize::b)
}

struct Page {
    /// In KiB.
    size: Option<u64>,
    /// The guest's own NUMA nodes. None: all that have no page of their own.
    nodes: Option<BTreeSet<u32>>,
}

fn page(node: Node<'_, '_>) -> Page {
    let size = node.attribute("size").and_then(|size| size.parse().ok());
    Page {
        size: size.and_then(|size| bytes(size, node.attribute("unit"))).map(|size| size.as_u64() >> 10),
        nodes: node.attribute("nodeset").and_then(cpu_list),
    }
}

/// The guest's NUMA nodes with the memory of each; it has one that holds all of it unless it says otherwise.
fn nodes(domain: Node<'_, '_>, memory: ByteSize) -> Vec<(u32, ByteSize)> {
    let numa = child(domain, "cpu").and_then(|cpu| child(cpu, "numa"));
    let cells = numa.into_iter().flat_map(|numa| named(numa, "cell")).enumerate();
    let cells: Vec<_> = cells.filter_map(|(index, node)| cell(index, node)).collect();
    if cells.is_empty() { vec![(0, memory)] } else { cells }
}

fn cell(index: usize, node: Node<'_, '_>) -> Option<(u32, ByteSize)> {
    let id = node.attribute("id").map_or_else(|| u32::try_from(index).ok(), |id| id.parse().ok())?;
    let memory = node.attribute("memory")?.parse().ok()?;
    Some((id, bytes(memory, node.attribute("unit"))?))
}

fn named<'a, 'd: 'a>(node: Node<'a, 'd>, name: &'static str) -> impl Iterator<Item = Node<'a, 'd>> {
    node.children().filter(move |child| child.has_tag_name(name))
}

/// libvirt's list of CPUs or nodes: numbers, ranges, and numbers with `^` that are taken out of what stands before them. None: it is
/// no such list, which libvirt keeps in no definition. The kernel's own lists are written alike.
pub fn cpu_list(list: &str) -> Option<BTreeSet<u32>> {
    let number = |text: &str| text.trim().parse().ok().filter(|number| *number <= LAST_CPU);
    let mut listed = BTreeSet::new();
    for part in list.split(',').map(str::trim) {
        if let Some(without) = part.strip_prefix('^') {
            listed.remove(&number(without)?);
        } else if let Some((first, last)) = part.split_once('-') {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            listed.extend(first..=last);
        } else {
            listed.insert(number(part)?);
        }
    }
    Some(listed)
}

/// Guest memory at most.
pub(super) fn memory(domain: Node<'_, '_>) -> Option<ByteSize> {
    let node = child(domain, "memory")?;
    bytes(text(domain, "memory")?.parse().ok()?, node.attribute("unit"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain_xml::parse;

    fn pages(xml: &str) -> Vec<(Option<u64>, ByteSize)> {
        let xml = format!("<domain><memory unit='GiB'>4</memory>{xml}</domain>");
        let document = parse(&xml).expect("well-formed");
        let domain = document.root_element();
        let memory = memory(domain).expect("some");
        huge_pages(domain, memory).into_iter().map(|pages| (pages.size, pages.memory)).collect()
    }

    fn backed(pages: &str) -> String {
        format!("<memoryBacking><hugepages>{pages}</hugepages></memoryBacking>")
    }

    #[test]
    fn memory_lies_in_the_pages_that_it_is_backed_by() {
        let all = ByteSize::gib(4);
        assert_eq!(pages(""), []);
        assert_eq!(pages("<memoryBacking><locked/></memoryBacking>"), []);
        assert_eq!(pages(&backed("")), [(None, all)], "the host's own size");
        assert_eq!(pages(&backed("<page size='2048' unit='KiB'/>")), [(Some(2_048), all)]);
        assert_eq!(pages(&backed("<page size='1' unit='G'/>")), [(Some(1 << 20), all)]);
        assert_eq!(pages(&backed("<page size='2048' nodeset='0'/>")), [(Some(2_048), all)], "its only node");
    }

    #[test]
    fn nodes_of_a_guest_lie_in_pages_of_their_own() {
        let numa = "<cpu><numa><cell id='0' cpus='0' memory='1' unit='GiB'/><cell id='1' cpus='1' memory='1048576'/>
            <cell id='2' cpus='2' memory='2' unit='GiB'/></numa></cpu>";
        let of = |asked: &str| pages(&format!("{}{numa}", backed(asked)));
        let [one, two, three] = [1, 2, 3].map(ByteSize::gib);
        let [small, large] = [Some(2_048), Some(1 << 20)];
        assert_eq!(of("<page size='2' unit='MiB' nodeset='0-1'/>"), [(small, two)], "node 2 has ordinary ones");
        assert_eq!(
            of("<page size='2' unit='MiB'/><page size='1' unit='GiB' nodeset='1'/>"),
            [(small, three), (large, one)]
        );
    }

    #[test]
    fn pages_are_counted_up() {
        let pages = HugePages { size: None, memory: ByteSize::b((3 << 20) + 1) };
        assert_eq!(pages.count(2_048), Some(2));
        assert_eq!(pages.count(1 << 20), Some(1));
        assert_eq!((pages.count(0), pages.count(u64::MAX)), (None, None));
    }

    #[test]
    fn lists_of_cpus_are_read_as_libvirt_does() {
        let read = |list| cpu_list(list).map(Vec::<u32>::from_iter);
        assert_eq!(read("0-3,^2,8"), Some(vec![0, 1, 3, 8]));
        assert_eq!(read("5"), Some(vec![5]));
        assert_eq!(read("^2,1-3"), Some(vec![1, 2, 3]), "what comes later stands");
        assert_eq!(read("0, 2"), Some(vec![0, 2]));
        for wrong in ["", "a", "3-1", "1-", "-1", "^", "^1-2", "0-99999999", "1,,2"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_thread_of_a_guest_may_be_pinned() {
        let pinned = |xml: &str| -> Vec<u32> {
            let xml = format!("<domain>{xml}</domain>");
            Vec::from_iter(pinned_cpus(parse(&xml).expect("well-formed").root_element()))
        };
        assert!(pinned("<vcpu placement='static'>2</vcpu>").is_empty());
        assert_eq!(pinned("<vcpu placement='static' cpuset='1-2'>2</vcpu>"), vec![1, 2]);
        assert!(pinned("<vcpu placement='auto' cpuset='1-2'>2</vcpu>").is_empty(), "numad's");
        let tuned = "<cputune><shares>9</shares><vcpupin vcpu='0' cpuset='4'/><vcpupin vcpu='1' cpuset='6,8'/>
            <emulatorpin cpuset='0'/><iothreadpin iothread='1' cpuset='1'/></cputune>";
        assert_eq!(pinned(tuned), vec![0, 1, 4, 6, 8]);
    }

    proptest! {
        #[test]
        fn a_list_holds_what_was_written_into_it(
            cpus in prop::collection::btree_set(0..=LAST_CPU, 1..40), without in prop::collection::vec(0..=LAST_CPU, 0..5),
        ) {
            let mut list: Vec<_> = cpus.iter().map(u32::to_string).collect();
            list.extend(without.iter().map(|cpu| format!("^{cpu}")));
            let left: BTreeSet<_> = cpus.into_iter().filter(|cpu| !without.contains(cpu)).collect();
            prop_assert_eq!(cpu_list(&list.join(",")), Some(left));
        }
    }
}
