//! Raw rows that were announced and are lost, in the books of a real PostgreSQL.

use std::collections::BTreeMap;

use proto::passage::Passage;
use proto::ranges::SeqSet;
use proto::topic::Shard;

use super::database_tests::{Base, planned};
use super::inventory_tests::{heartbeat, held, passages, set};
use super::writer::{Right, Writer};
use crate::intake::decode::Message;
use crate::testing::{DAY, NOW, batch, passage, summary};
use crate::window::state::Memory;

const UNIT: &str = "KV1";

/// An owner that knows nothing but what the database does takes a message.
async fn taken(writer: &Writer, tokens: &BTreeMap<Shard, i64>, message: Message) {
    let messages = [message];
    let plan = planned(writer, &mut Memory::new(), &messages).await;
    writer.commit(&plan, Right::Owner(tokens)).await.unwrap();
}

/// counted, stored and `raw_only` of the only stream, and what single losses add up to.
async fn books(base: &Base) -> [i64; 4] {
    let books = "SELECT ARRAY[counted, stored, raw_only,
        (SELECT coalesce(sum(passages), 0)::int8 FROM v_loss)] FROM v_ledger";
    let books: Vec<i64> = base.client.query_one(books, &[]).await.unwrap().get(0);
    books.try_into().unwrap()
}

#[tokio::test]
async fn raw_rows_that_are_held_no_more_are_in_the_books_until_they_come_after_all() {
    let base = Base::new().await;
    let (writer, tokens) = (base.writer().await, base.tokens().await);
    let sent = passages(100);
    taken(&writer, &tokens, summary(UNIT, set(1, 100), &sent)).await;
    assert_eq!(books(&base).await, [100, 0, 0, 0]);
    // Its list is whole, and the stream is not in it.
    taken(&writer, &tokens, heartbeat(1, Vec::new())).await;
    assert_eq!(books(&base).await, [100, 0, 100, 100]);
    taken(&writer, &tokens, batch(UNIT, 1, 11, &sent[10..50])).await;
    assert_eq!(books(&base).await, [100, 40, 60, 60]);
    let rows = "SELECT count(*) FROM passage";
    assert_eq!(base.number(rows).await, 40);
    taken(&writer, &tokens, batch(UNIT, 1, 1, &sent)).await;
    assert_eq!(books(&base).await, [100, 100, 0, 0]);
    assert_eq!(base.number(rows).await, 100);
    let back = "SELECT count(*) FROM v_loss WHERE scope = 'raw_only' AND recovered_at IS NOT NULL";
    assert_eq!(base.number(back).await, 1);
}

#[tokio::test]
async fn raw_rows_that_come_after_all_and_find_no_room_are_lost_for_another_reason() {
    let base = Base::new().await;
    let (writer, tokens) = (base.writer().await, base.tokens().await);
    taken(&writer, &tokens, summary(UNIT, set(1, 100), &passages(100))).await;
    let known = held(1, 300, SeqSet::new(), set(101, 300));
    taken(&writer, &tokens, heartbeat(1, vec![known])).await;
    assert_eq!(books(&base).await, [100, 0, 100, 100]);
    // The side table takes 100 of a unit and day.
    let old: Vec<Passage> = (0..200).map(|n| passage(NOW - 61 * DAY, n)).collect();
    taken(&writer, &tokens, batch(UNIT, 1, 101, &old)).await;
    assert_eq!(books(&base).await, [200, 100, 100, 200]);
    taken(&writer, &tokens, batch(UNIT, 1, 1, &old[..100])).await;
    assert_eq!(books(&base).await, [200, 100, 100, 200]);
    let reasons = "SELECT count(*) FROM v_loss
        WHERE scope = 'raw_only' AND first_seq = 1 AND last_seq = 100
          AND passages = CASE reason WHEN 'too_old' THEN 100 WHEN 'vanished' THEN 0 END";
    assert_eq!(base.number(reasons).await, 2);
}

#[tokio::test]
async fn what_an_aggregator_stores_that_knows_nothing_of_lost_rows_is_stored_once() {
    let base = Base::new().await;
    let (writer, tokens) = (base.writer().await, base.tokens().await);
    let sent = passages(100);
    taken(&writer, &tokens, summary(UNIT, set(1, 100), &sent)).await;
    taken(&writer, &tokens, heartbeat(1, Vec::new())).await;
    let store = "UPDATE stream_cursor SET stored = '{[1,11)}', rev = rev + 1";
    base.client.batch_execute(store).await.unwrap();
    taken(&writer, &tokens, batch(UNIT, 1, 1, &sent)).await;
    assert_eq!(base.number("SELECT count(*) FROM passage").await, 90);
}
