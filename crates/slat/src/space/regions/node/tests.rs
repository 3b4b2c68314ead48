//! Nodes by themselves: where they are cut, and that a guess only makes a search shorter.

use super::*;
use std::vec::Vec;

const N: usize = 8;

/// A node with the keys 10, 20 and so on, each with itself as value.
fn node(entries: usize) -> Node<u64, N> {
    let mut node = Node { len: 0, frame: HostPhysAddr::new(0), keys: [0; N], values: [0; N] };
    for index in 0..entries {
        let key = 10 * (index as u64 + 1);
        node.insert(index, key, key);
    }
    node
}

fn entries(node: &Node<u64, N>) -> Vec<u64> {
    for (index, key) in node.keys().iter().enumerate() {
        assert_eq!(node.get(index), Some((*key, *key)), "a value is with its key");
    }
    assert_eq!(node.get(node.len()), None);
    node.keys().to_vec()
}

/// The sizes of both parts after one more entry at `index` of a full node.
fn split(index: usize, edge: Option<usize>) -> (usize, usize) {
    let (mut full, mut next) = (node(N), node(0));
    let key = 10 * index as u64 + 5;
    full.insert_split(index, key, key, &mut next, edge);
    let (low, high) = (entries(&full), entries(&next));
    let mut wanted = entries(&node(N));
    wanted.insert(index, key);
    assert_eq!([low.as_slice(), high.as_slice()].concat(), wanted);
    (low.len(), high.len())
}

#[test]
fn a_full_node_is_cut_where_the_new_entry_goes_as_far_as_both_parts_are_large_enough() {
    let sizes: Vec<_> = (0..=N).map(|index| split(index, None)).collect();
    assert_eq!(sizes, [(2, 7), (2, 7), (2, 7), (3, 6), (4, 5), (5, 4), (6, 3), (7, 2), (7, 2)]);
}

#[test]
fn a_full_node_at_the_edge_stays_full_if_the_new_entry_comes_last() {
    assert_eq!(split(N, Some(1)), (8, 1));
    assert_eq!(split(N, Some(2)), (7, 2));
    for index in 0..N {
        assert_eq!(split(index, Some(1)), split(index, None), "not the last one");
    }
}

#[test]
fn two_nodes_share_evenly_or_become_one() {
    for left in 0..=N {
        for right in 1..=N {
            let (mut first, mut second) = (node(left), node(0));
            for index in 0..right {
                let key = 1000 + index as u64;
                second.insert(index, key, key);
            }
            let all = [entries(&first), entries(&second)].concat();
            match first.balance(&mut second) {
                Balanced::Merged => {
                    assert!(left + right <= 6, "{left} and {right}");
                    assert_eq!((entries(&first), second.len()), (all, 0));
                }
                Balanced::Shared(key) => {
                    assert!(left + right > 6, "{left} and {right}");
                    assert_eq!(key, second.keys()[0]);
                    assert_eq!([entries(&first), entries(&second)].concat(), all);
                    assert_eq!(first.len(), (left + right) / 2);
                }
            }
        }
    }
}

#[test]
fn a_search_finds_the_same_place_however_keys_are_spread() {
    let spreads: [fn(u64) -> u64; 5] = [
        |n| n * 4096,
        |n| n * n * 4096,
        |n| 1 << n,
        |n| if n < 20 { n } else { n << 40 },
        |n| u64::MAX - 64 * (40 - n),
    ];
    for (number, spread) in spreads.into_iter().enumerate() {
        for many in 0..40 {
            let keys: Vec<u64> = (0..many).map(spread).collect();
            let asked = keys.iter().flat_map(|key| [key.saturating_sub(1), *key, key.saturating_add(1)]);
            for key in asked.chain([0, u64::MAX]) {
                let wanted = keys.iter().filter(|other| **other <= key).count();
                assert_eq!(count_to(&keys, key), wanted, "{key:#x} in {many} keys of spread {number}");
                assert_eq!(
                    count_to_of_many(&keys, key),
                    wanted,
                    "{key:#x} in {many} keys of spread {number}"
                );
            }
        }
    }
}

#[test]
fn a_region_comes_out_of_its_node_as_it_went_in() {
    let range = GuestPhysRange::new(GuestPhysAddr::new(0x7000), 0x3000).expect("a range");
    let offset = OFFSET_LIMIT - PAGE_SIZE;
    let backends = [
        // RISC-V has host physical addresses of 56 bits.
        Backend::Linear { hpa: HostPhysAddr::new((1 << 56) - PAGE_SIZE) },
        Backend::Alloc { largest_leaf: LeafSize::Size1G, fault_around: LeafSize::Size2M },
        Backend::Shared { memory: SharedId(u16::MAX), offset },
        Backend::Private { memory: SharedId(u16::MAX), offset },
        Backend::Trap { device: DeviceId(u16::MAX), offset },
        Backend::Custom { source: u16::MAX, offset },
        Backend::Paged { source: u16::MAX, offset },
    ];
    for backend in backends {
        for log in [None, Some(LogUnit::Page), Some(LogUnit::Leaf)] {
            for (pins, in_children) in [(0, true), (MOST_PINS, false)] {
                for flags in [MappingFlags::empty(), MappingFlags::all()] {
                    let region = Region { range, flags, backend, pins, log, in_children };
                    assert_eq!(Packed::new(&region).unpack(0x7000), Some(region));
                    let around =
                        Backend::Alloc { largest_leaf: LeafSize::Size1G, fault_around: LeafSize::Size4K };
                    let single = Packed::new(&Region { backend: around, ..region }).populates_single_pages();
                    assert_eq!(
                        single,
                        log.is_none() && in_children,
                        "the short way of a fault has flags alone"
                    );
                }
            }
        }
    }
}
