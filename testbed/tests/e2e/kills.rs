//! Kill -9 of everything at random moments.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use testbed::feed::{self, Line};
use testbed::recompute::Ledger;
use testbed::system::{Camera, Options, System};

use crate::support::{HOUR_MS, alone, lines, names, seed, settled};

const UNITS: [&str; 3] = ["kill-1", "kill-2", "kill-3"];
const PASSAGES: usize = 8_000;
/// How long a camera goes on trying: longer than all that happens here.
const THROUGH: Duration = Duration::from_secs(120);
/// How often each victim is killed.
const KILLS_EACH: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Victim {
    Agent(usize),
    Broker,
    Aggregator,
    Postgres,
}

/// Posts in small, uneven portions with pauses, so that every kill hits something in flight.
async fn trickle(device: &str, lines: &[Line], camera: &Camera, seed: u64) -> Ledger {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut ledger = Ledger::new();
    let mut rest = lines;
    while !rest.is_empty() {
        let (portion, later) = rest.split_at(random.random_range(1..200).min(rest.len()));
        let texts: Vec<String> = portion.iter().map(|line| line.text.clone()).collect();
        feed::accept(device, &texts, camera, THROUGH)
            .await
            .expect("accepted in the end");
        portion
            .iter()
            .for_each(|line| ledger.add(device, line.fact.clone()));
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        rest = later;
    }
    ledger
}

/// Kills in a random order at random moments, for a random time each.
async fn kill_everybody(system: &mut System, random: &mut ChaCha8Rng) -> Vec<String> {
    let mut told = Vec::new();
    let agents = (0..UNITS.len()).map(Victim::Agent);
    let mut victims: Vec<Victim> = agents
        .chain([Victim::Broker, Victim::Aggregator, Victim::Postgres])
        .collect();
    victims = victims.repeat(KILLS_EACH);
    victims.shuffle(random);
    for victim in victims {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1_000))).await;
        let down = Duration::from_millis(random.random_range(0..700));
        told.push(format!("kill -9 {victim:?}, back after {down:?}"));
        match victim {
            Victim::Agent(place) => {
                let agent = system.agents.get_mut(UNITS[place]).expect("running");
                agent.server.kill();
                tokio::time::sleep(down).await;
                agent.server.start().expect("started again");
            }
            Victim::Broker => {
                system.broker.kill();
                tokio::time::sleep(down).await;
                system.broker.start().expect("started again");
            }
            Victim::Aggregator => {
                system.aggregator.kill();
                tokio::time::sleep(down).await;
                system.aggregator.start().expect("started again");
            }
            Victim::Postgres => {
                tokio::task::block_in_place(|| system.cluster.stop_immediate());
                tokio::time::sleep(down).await;
                tokio::task::block_in_place(|| system.cluster.restart()).expect("recovered");
            }
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_window_and_row_is_exact_after_kill_9_of_everybody_at_random_moments() {
    let _alone = alone().await;
    let seed = seed();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut system = System::start(Options {
        agents: names(&UNITS),
        ..Options::default()
    })
    .await
    .expect("a running system");
    let cameras: Vec<(Vec<Line>, Camera)> = (seed..seed.wrapping_add(3))
        .zip(UNITS)
        .map(|(seed, unit)| {
            (
                lines(unit, PASSAGES, 6 * HOUR_MS, seed),
                system.agents[unit].camera().clone(),
            )
        })
        .collect();
    let trickles = UNITS
        .iter()
        .zip(&cameras)
        .map(|(unit, (lines, camera))| trickle(unit, lines, camera, seed.rotate_left(17)));
    let (ledgers, told) = tokio::join!(
        futures_util::future::join_all(trickles),
        kill_everybody(&mut system, &mut random)
    );
    let mut ledger = Ledger::new();
    ledgers
        .into_iter()
        .for_each(|of_unit| ledger.merge(of_unit));
    assert_eq!(ledger.passages(), (UNITS.len() * PASSAGES) as u64);
    let verdict = settled(&system, &ledger).await;
    assert!(verdict.exact(), "seed {seed}: {verdict}\n{told:#?}");
    assert_eq!(
        (verdict.totals.lost, verdict.totals.rejected),
        (0, 0),
        "{verdict}"
    );
    system.stop().expect("an orderly end");
}
