use super::*;

fn churn(seed: u64, limit: u64) -> Churn {
    Churn::new(Settings { seed, per_exit: 1, limit })
}

fn drawn(churn: &mut Churn, count: usize) -> Vec<(u64, Operation)> {
    let mut operations = Vec::new();
    while operations.len() < count {
        let Some((page, operation)) = churn.draw() else { break };
        churn.done(page, operation);
        churn.give_back(page);
        operations.push((page, operation));
    }
    operations
}

#[test]
fn the_generator_matches_its_published_sequence() {
    // The first values for seed 1234567, as published with the algorithm.
    let mut random = SplitMix64(1_234_567);
    assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
}

#[test]
fn the_same_seed_draws_the_same_and_another_does_not() {
    let sequence = |seed| {
        let mut churn = churn(seed, 100);
        churn.populated(0x4000_0000, 1 << 20);
        drawn(&mut churn, 100)
    };
    assert_eq!(sequence(1), sequence(1));
    assert_ne!(sequence(1), sequence(2));
}

#[test]
fn it_stops_at_the_limit_and_counts_by_kind() {
    let mut churn = churn(7, 1000);
    churn.populated(0x4000_0000, 64 << 12);
    assert_eq!(drawn(&mut churn, 2000).len(), 1000);
    let ChurnReport { unmapped, moved, write_protected } = churn.report();
    assert_eq!(unmapped + moved + write_protected, 1000);
    assert!(unmapped > 250 && moved > 250 && write_protected > 250);
}

#[test]
fn a_taken_page_is_not_drawn_until_it_is_given_back() {
    let mut churn = churn(7, 1000);
    churn.populated(0x4000_0000, 4096);
    churn.done(0x4000_0000, Operation::Unmap);
    assert_eq!(churn.draw(), None);
    assert_eq!(churn.give_back(0x4000_1000), None);
    assert_eq!(churn.give_back(0x4000_0abc), Some(0x4000_0000));
    assert_eq!(churn.give_back(0x4000_0abc), None);
    assert!(churn.draw().is_some());
}

#[test]
fn without_pages_there_is_nothing_to_draw() {
    assert_eq!(churn(0, 10).draw(), None);
}
