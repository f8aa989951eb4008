//! The simulator's own claims: it repeats itself, the product passes, and every planted bug is found.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use super::{Bug, Course, Summary, replay_command, run, run_all};

/// Seeds of one run of the tests.
const SEEDS: u64 = 500;

fn threads() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    for seed in 1..=5 {
        let (first, second) = (
            run(seed, Course::Faults, None, true),
            run(seed, Course::Faults, None, true),
        );
        assert!(
            first.trace.lines().count() > 100,
            "{} bytes",
            first.trace.len()
        );
        assert!(
            first.trace == second.trace,
            "seed {seed} differs from itself"
        );
        assert_ne!(first.trace, run(seed + 1, Course::Faults, None, true).trace);
    }
}

#[test]
fn what_is_replayed_inside_of_a_runtime_is_what_was_judged_outside() {
    let outside = run(1, Course::Faults, None, true);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let inside = async { run(1, Course::Faults, None, true) };
    let inside = runtime.expect("a runtime").block_on(inside);
    assert!(inside.trace == outside.trace, "{:?}", inside.problem);
    assert_eq!(inside.problem, outside.problem);
}

fn all_pass(seeds: u64, course: Course) -> Summary {
    let summary = run_all(1..=seeds, course, None, threads(), false);
    for report in &summary.failed {
        let problem = report.problem.as_deref().unwrap_or_default();
        let replay = replay_command(report.seed, course, None);
        eprintln!("seed {}: {problem}\n    replay: {replay}", report.seed);
    }
    assert!(
        summary.failed.is_empty(),
        "{} seeds failed",
        summary.failed.len()
    );
    summary
}

#[test]
fn five_hundred_seeds_keep_every_promise() {
    let tally = all_pass(SEEDS, Course::Faults).tally;
    let seen = [
        tally.summarised,
        tally.lost,
        tally.rowless,
        tally.early,
        tally.corrected,
        tally.no_space,
        tally.put_back,
        tally.clones,
        tally.alarms,
    ];
    assert!(seen.iter().all(|seen| *seen > 0), "too tame: {tally:?}");
}

#[test]
fn days_at_the_quota_that_drops_the_oldest_stay_within_it_and_every_window_is_exact() {
    let tally = all_pass(1, Course::DropOldest).tally;
    assert!(tally.raw_lost > 0, "too tame: {tally:?}");
}

#[test]
fn days_at_the_quota_that_refuses_new_passages_stay_within_it_and_lose_nothing() {
    let tally = all_pass(1, Course::RefuseNew).tally;
    let refused = tally.full.min(tally.turned_away);
    assert!(refused > 100, "too tame: {tally:?}");
    assert_eq!((tally.lost, tally.raw_lost), (0, 0));
}

fn finds(bug: Bug) {
    let summary = run_all(1..=SEEDS, Course::Faults, Some(bug), threads(), true);
    assert!(
        !summary.failed.is_empty(),
        "{bug:?} was not found in {SEEDS} seeds"
    );
}

#[test]
fn a_unit_that_takes_pubacks_for_receipts_is_found() {
    finds(Bug::DeleteOnPuback);
}

#[test]
fn an_answer_before_the_disk_has_it_is_found() {
    finds(Bug::SkipFlush);
}

#[test]
fn receipts_before_the_commit_are_found() {
    finds(Bug::ReceiptBeforeCommit);
}

#[test]
fn cursors_in_a_transaction_of_their_own_are_found() {
    finds(Bug::CursorAfterWindows);
}

#[test]
fn owners_without_fencing_are_found() {
    finds(Bug::NoFencing);
}

#[test]
fn streams_named_by_a_store_that_can_be_put_back_are_found() {
    finds(Bug::StreamFromStore);
}
