use super::{Board, Outcome, Step, Tally};
use crate::host::{Host, OsRelease};
use crate::task_test::Context;
use crate::workspace::Workspace;
use std::io::sink;

fn context() -> Context {
    let host = Host { path: Vec::new(), os: OsRelease::default(), root: false };
    Context { host, workspace: Workspace { root: "/".into(), target: "/".into() } }
}

fn steps() -> Vec<Step> {
    vec![
        Step::new("good", |_, _| Outcome::Passed("fine".to_owned())),
        Step::new("many", |_, _| Outcome::Counted(Tally { passed: 5, failed: 0, skipped: 2 })),
        Step::new("beside the point", |_, _| Outcome::Skipped("not here".to_owned())),
        Step::new("impossible", |_, _| Outcome::Impossible("no emulator".to_owned())),
    ]
}

#[test]
fn impossible_steps_are_skipped_at_home_and_fail_in_ci() {
    let mut board = Board::new(false, false, Box::new(sink()));
    board.run(steps(), &context(), 2);
    assert_eq!(board.lock().tally.to_string(), "6 passed, 0 failed, 4 skipped");
    assert!(board.finish());

    let mut board = Board::new(false, true, Box::new(sink()));
    board.run(steps(), &context(), 2);
    assert_eq!(board.lock().tally.to_string(), "6 passed, 1 failed, 3 skipped");
    assert_eq!(board.lock().failures, ["impossible"]);
    assert!(!board.finish());
}

#[test]
fn failures_inside_a_counted_step_count() {
    let mut board = Board::new(false, false, Box::new(sink()));
    let tally = Tally { passed: 1, failed: 2, skipped: 0 };
    board.run(vec![Step::new("many", move |_, _| Outcome::Counted(tally))], &context(), 1);
    assert_eq!(board.lock().tally, tally);
    assert!(!board.finish());
}
