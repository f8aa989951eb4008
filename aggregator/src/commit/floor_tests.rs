//! What a stream has settled is forgotten only where nothing of it can be counted again.

use super::database_tests::{Base, planned};
use super::writer::{Right, WriteError};
use crate::store::retention::forget_streams;
use crate::testing::{NOW, batch, passage};
use crate::window::state::Memory;

const UNIT: &str = "KV1";

/// The passages of these tests are from 2025; 30 days are later than all of them.
const DAYS: u32 = 30;

const AGE: &str = "UPDATE stream_cursor SET updated_at = now() - interval '31 days'";

fn sent() -> [crate::intake::decode::Message; 1] {
    let passages: Vec<_> = (0..10).map(|n| passage(NOW - n * 1_000, 5_000)).collect();
    [batch(UNIT, 1, 1, &passages)]
}

/// A database that has counted ten passages of a stream, long ago.
async fn counted() -> Base {
    let base = Base::new().await;
    let writer = base.writer().await;
    let messages = sent();
    let mut memory = Memory::new();
    let plan = planned(&writer, &mut memory, &messages).await;
    let tokens = base.tokens().await;
    writer.commit(&plan, Right::Owner(&tokens)).await.unwrap();
    base.client.batch_execute(AGE).await.unwrap();
    base
}

async fn cursors(base: &Base) -> i64 {
    base.number("SELECT count(*) FROM stream_cursor").await
}

#[tokio::test]
async fn a_stream_that_ended_is_forgotten_and_what_it_sends_again_is_refused() {
    let base = counted().await;
    forget_streams(&base.client, DAYS).await.unwrap();
    assert_eq!(cursors(&base).await, 0);
    let writer = base.writer().await;
    let messages = sent();
    let mut memory = Memory::new();
    let plan = planned(&writer, &mut memory, &messages).await;
    assert_eq!((plan.tally.counted, plan.rows.rejected.len()), (0, 10));
    let tokens = base.tokens().await;
    writer.commit(&plan, Right::Owner(&tokens)).await.unwrap();
    let counted = "SELECT sum(n)::int8 FROM speed_stats_5m";
    assert_eq!(base.number(counted).await, 10, "and nothing twice");
}

#[tokio::test]
async fn a_flush_that_took_the_floor_to_be_lower_is_rolled_back() {
    let base = counted().await;
    let writer = base.writer().await;
    let messages = [batch(UNIT, 2, 1, &[passage(NOW, 5_000)])];
    let mut memory = Memory::new();
    let plan = planned(&writer, &mut memory, &messages).await;
    forget_streams(&base.client, DAYS).await.unwrap();
    let tokens = base.tokens().await;
    let error = writer.commit(&plan, Right::Owner(&tokens)).await;
    assert!(
        matches!(
            error,
            Err(WriteError::Rows {
                table: "cursor_floor",
                ..
            })
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn streams_that_are_open_young_or_still_held_are_remembered_and_the_floor_stays() {
    for keep in [
        "UPDATE stream_cursor SET updated_at = now() - interval '30 days'",
        "UPDATE stream_cursor SET settled = false",
        "INSERT INTO device_status (device_key, inventory_stream)
         SELECT device_key, ARRAY[stream] FROM stream_cursor
         ON CONFLICT (device_key) DO UPDATE SET inventory_stream = excluded.inventory_stream",
    ] {
        let base = counted().await;
        base.client.batch_execute(keep).await.unwrap();
        forget_streams(&base.client, DAYS).await.unwrap();
        assert_eq!(cursors(&base).await, 1, "{keep}");
        let floor = "SELECT extract(epoch FROM floor)::int8 FROM cursor_floor";
        assert_eq!(base.number(floor).await, 0, "{keep}");
    }
}
