//! What a part has come to is counted as what it is.

use super::{Finding, count};
use crate::missing::{Missing, MissingThings};
use crate::task_test::Tally;

fn counted(found: anyhow::Result<Finding>, ci: bool) -> [u64; 3] {
    let mut tally = Tally::default();
    count("part", found, ci, &mut tally);
    [tally.passed, tally.failed, tally.skipped]
}

#[test]
fn each_outcome_is_counted_once() {
    assert_eq!(counted(Ok(Finding::Fine("well".to_owned())), false), [1, 0, 0]);
    assert_eq!(counted(Ok(Finding::Skipped("not here".to_owned())), false), [0, 0, 1]);
    assert_eq!(counted(Err(anyhow::anyhow!("broken")), false), [0, 1, 0]);
    assert_eq!(
        counted(MissingThings::check(vec![Missing::new("a", "b")]).map(|()| unreachable!()), false),
        [0, 0, 1]
    );
}

#[test]
fn in_ci_a_tool_that_is_missing_is_a_failure() {
    assert_eq!(counted(Ok(Finding::Skipped("not here".to_owned())), true), [0, 0, 1]);
    assert_eq!(
        counted(MissingThings::check(vec![Missing::new("a", "b")]).map(|()| unreachable!()), true),
        [0, 1, 0]
    );
}
