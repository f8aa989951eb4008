//! What a unit says that it holds, against what is settled: losses that nobody declared.
//!
//! A heartbeat lists the streams of which the unit has something left, with the numbers that it has
//! (`held`) and those whose receipt it claims (`released`). What is neither settled nor held will
//! never come: `centre_lost` where the unit claims a receipt (the database was put back in time, and
//! the copy at the unit is gone), otherwise `vanished`. So is it with the raw rows of what a summary
//! has counted. What the unit holds and believes settled, and the database does not know, is asked for
//! once more by a receipt that stands `afresh`.
//!
//! Only the newest statement of a unit is believed, and none of a cloned identity: of an older one, or
//! of another unit's, the streams of the present one may be missing. A loss found here frees nothing
//! at the unit and is lost no more once it is counted, so an inventory that is wrong costs a
//! correction, never a passage.

use std::collections::{BTreeMap, BTreeSet};

use proto::device::StreamId;
use proto::header::UpHeader;
use proto::heartbeat::{Heartbeat, HeldStream};
use proto::limits::STREAMS_MAX;
use proto::loss::LossScope;
use proto::passage::EventTime;
use proto::ranges::SeqSet;

use super::super::plan::{Context, LossCause, LossRow, Planner};
use super::Draft;
use crate::window::dedup::Cursor;

impl Draft<'_> {
    /// Takes over what a unit says that it holds.
    pub fn inventory(
        &mut self,
        header: &UpHeader,
        heartbeat: &Heartbeat,
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) {
        let finality = &self.change.finality;
        let believed =
            finality.frontier == Some(header.frontier) && !finality.is_cloned(context.now_ms);
        let listed: BTreeMap<StreamId, &HeldStream> = heartbeat
            .held
            .iter()
            .filter(|held| held.accepted_to > 0)
            .map(|held| (held.stream, held))
            .collect();
        for held in listed.values() {
            let Some(mut cursor) = self.listed_cursor(held.stream, context, planner) else {
                continue;
            };
            if cursor.accept_to(held.accepted_to) && held.stream == header.stream {
                self.advanced(header, context);
            }
            if believed {
                self.miss(&mut cursor, &held.held, &held.released, context, planner);
                self.ask_again(&cursor, held);
            }
            self.keep(held.stream, cursor);
        }
        // A list as long as a message takes may lack some.
        if !believed || heartbeat.held.len() >= STREAMS_MAX {
            return;
        }
        let unlisted: BTreeSet<StreamId> = self
            .state
            .cursors
            .keys()
            .chain(self.change.cursors.keys())
            .filter(|stream| !listed.contains_key(stream))
            .copied()
            .collect();
        for stream in unlisted {
            let Some(mut cursor) = self.known_cursor(stream) else {
                continue;
            };
            let none = SeqSet::new();
            self.miss(&mut cursor, &none, &none, context, planner);
            self.keep(stream, cursor);
        }
    }

    /// Books what is to come, passages or the raw rows of some, and is not held any more.
    fn miss(
        &self,
        cursor: &mut Cursor,
        held: &SeqSet,
        released: &SeqSet,
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) {
        for (scope, to_come) in [
            (LossScope::All, cursor.open()),
            (LossScope::RawOnly, cursor.awaited()),
        ] {
            let gone = to_come.difference(held);
            for (cause, seqs) in [
                (LossCause::CentreLost, gone.intersection(released)),
                (LossCause::Vanished, gone.difference(released)),
            ] {
                self.lose(cursor, &seqs, scope, cause, context, planner);
            }
        }
    }

    fn known_cursor(&self, stream: StreamId) -> Option<Cursor> {
        let drafted = self.change.cursors.get(&stream);
        drafted.or_else(|| self.state.cursors.get(&stream)).cloned()
    }

    /// The cursor of a stream of the inventory; none of a stream beyond what a device may have.
    fn listed_cursor(
        &mut self,
        stream: StreamId,
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) -> Option<Cursor> {
        let mut cursor = self.known_cursor(stream)?;
        if cursor.stream_key == 0 {
            self.begin(&mut cursor, context, planner).ok()?;
        }
        Some(cursor)
    }

    /// What a unit holds and believes settled, and the database does not know, is to be offered again.
    fn ask_again(&mut self, cursor: &Cursor, held: &HeldStream) {
        let unknown = held
            .released
            .intersection(&SeqSet::up_to(held.accepted_to))
            .difference(&cursor.stored)
            .difference(&cursor.declared());
        if !unknown.is_disjoint(&held.held) {
            self.afresh.insert(held.stream);
        }
    }

    /// Numbers that nobody declared as lost. Those that the cursor cannot take are still to come.
    fn lose(
        &self,
        cursor: &mut Cursor,
        seqs: &SeqSet,
        scope: LossScope,
        cause: LossCause,
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) {
        if seqs.is_empty() {
            return;
        }
        let next = match scope {
            LossScope::All => cursor.presume_lost(seqs),
            LossScope::RawOnly => cursor.presume_rowless(seqs),
        };
        if let Ok(next) = next {
            *cursor = next;
            self.book(cursor, seqs, scope, cause, context, planner);
        }
    }

    /// When they happened nobody knows, but no window that would have taken them is older than the
    /// horizon was when the stream was first heard of, or newer than now.
    fn book(
        &self,
        cursor: &Cursor,
        seqs: &SeqSet,
        scope: LossScope,
        cause: LossCause,
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) {
        let since_ms = cursor.since_ms.min(context.now_ms);
        let event_min = context.horizon.oldest_ms() - (context.now_ms - since_ms);
        planner.tally.lose(scope, cause, seqs.count());
        let rows = seqs.ranges().iter().map(|range| LossRow {
            device_key: self.state.key,
            stream_key: cursor.stream_key,
            range: *range,
            scope,
            cause,
            event_min: Some(EventTime::from_millis(event_min)),
            event_max: Some(EventTime::from_millis(context.horizon.newest_ms())),
        });
        planner.rows.losses.extend(rows);
    }

    /// Puts a cursor into the change, without a receipt, if it differs.
    fn keep(&mut self, stream: StreamId, cursor: Cursor) {
        if self.known_cursor(stream).as_ref() != Some(&cursor) {
            self.change.cursors.insert(stream, cursor);
        }
    }
}
