//! ● The connection to the broker.

use std::collections::BTreeMap;

use bytes::Bytes;
use edge_agent::uplink::exchange::Input;
use proto::frame::{Down, UpFrame};
use proto::receipt::{Centre, StreamReceipt};
use proto::topic::{Shard, beacon, down, up};
use proto::{SeqRange, StreamId};

use super::super::net::{Client, ConnectionId, ToBroker, ToClient};
use super::super::oracle::show;
use super::super::scenario::Bug;
use super::super::stage::Stage;
use super::{Link, Unit};

impl Unit {
    /// Hands a frame to the link, if it has room.
    pub(super) fn send(&mut self, stage: &mut Stage, frame: Vec<u8>) -> bool {
        let most = self.setup.link_frames_max;
        let Some(link) = self
            .running
            .as_mut()
            .and_then(|running| running.link.as_mut())
        else {
            return false;
        };
        if link.unacknowledged.len() >= most {
            return false;
        }
        link.pkid = link.pkid % u16::MAX + 1;
        let opened = UpFrame::open(&frame).ok();
        let holds = opened.and_then(|open| Some((open.header.stream, open.header.range()?)));
        // The kind of a frame is its second byte.
        let kind = frame.get(1).copied().unwrap_or_default();
        link.unacknowledged.insert(link.pkid, (frame.len(), holds));
        let packet = ToBroker::Publish {
            topic: up(&self.name),
            payload: Bytes::from(frame),
            retain: false,
            pkid: Some(link.pkid),
        };
        let id = link.id;
        if let Some((stream, range)) = holds {
            stage.say(format_args!(
                "{}: sends kind {kind} {stream} {range}",
                self.name
            ));
        }
        stage.send_up(id, packet);
        true
    }

    pub(super) fn dial(&mut self, stage: &mut Stage) {
        if self.running.is_none() {
            return;
        }
        let reachable = stage.weather.broker_up && !stage.weather.cut_off[self.place];
        if !reachable {
            return self.feed(stage, Input::Lost);
        }
        let id = stage.connect(Client::Unit(self.place, self.life));
        if let Some(running) = &mut self.running {
            running.link = Some(Link {
                id,
                pkid: 0,
                unacknowledged: BTreeMap::new(),
            });
        }
        let client_id = self.name.as_str().to_owned();
        stage.send_up(id, ToBroker::Connect { client_id });
    }

    /// Something came over the connection.
    pub(in crate::sim) fn receive(
        &mut self,
        stage: &mut Stage,
        id: ConnectionId,
        packet: ToClient,
    ) {
        let link = self
            .running
            .as_mut()
            .and_then(|running| running.link.as_mut());
        let Some(link) = link.filter(|link| link.id == id) else {
            return;
        };
        match packet {
            ToClient::Connected => {
                let filters = vec![down(&self.name), beacon(Shard::of(&self.name))];
                stage.send_up(id, ToBroker::Subscribe(filters));
            }
            ToClient::Subscribed => self.feed(stage, Input::Subscribed),
            ToClient::PubAck(pkid) => {
                let (bytes, held) = link.unacknowledged.remove(&pkid).unwrap_or_default();
                if let Some((stream, range)) =
                    held.filter(|_| self.bug == Some(Bug::DeleteOnPuback))
                {
                    self.believe_puback(stage, stream, range);
                }
                self.feed(stage, Input::Acknowledged { bytes });
            }
            ToClient::Publish { payload, pkid, .. } => {
                pkid.into_iter()
                    .for_each(|pkid| stage.send_up(id, ToBroker::PubAck(pkid)));
                match Down::decode(&payload) {
                    Ok(Down::Receipt(receipt)) => {
                        stage.oracle.received(self.identity, &receipt.streams);
                        for of in &receipt.streams {
                            stage.say(format_args!(
                                "{}: receipt of {}: counted {}, stored {}, lost {}",
                                self.name,
                                of.stream,
                                show(&of.counted),
                                show(&of.stored),
                                show(&of.lost)
                            ));
                        }
                        self.feed(stage, Input::Receipt(receipt));
                    }
                    Ok(Down::Refusal(refusal)) => {
                        stage.say(format_args!(
                            "{}: refused {:?} {:?} {:?}: {}",
                            self.name, refusal.range, refusal.class, refusal.reason, refusal.detail
                        ));
                        self.feed(stage, Input::Refusal(refusal));
                    }
                    Ok(Down::Beacon(beacon)) => self.feed(stage, Input::Beacon(beacon)),
                    Err(error) => stage
                        .oracle
                        .fail(format!("{} cannot read the centre: {error}", self.name)),
                }
            }
            ToClient::Gone => {
                if let Some(running) = &mut self.running {
                    running.link = None;
                }
                self.feed(stage, Input::Lost);
            }
        }
    }

    /// The planted bug.
    fn believe_puback(&mut self, stage: &mut Stage, stream: StreamId, range: SeqRange) {
        let Some(running) = &self.running else { return };
        let state = running.state.borrow().clone();
        let (Some(centre), known) = (state.centre, state.streams.iter().find(|s| s.id == stream))
        else {
            return;
        };
        let stored = known.map(|known| known.stored.clone()).unwrap_or_default();
        let stored = stored.union(&range.into());
        let receipt = StreamReceipt {
            stream,
            counted: stored.clone(),
            stored,
            lost: proto::SeqSet::new(),
            afresh: false,
        };
        self.believe(stage, centre, receipt);
    }

    fn believe(&mut self, stage: &mut Stage, centre: Centre, receipt: StreamReceipt) {
        let receipt = proto::receipt::Receipt {
            centre,
            streams: vec![receipt],
            correction: None,
        };
        self.feed(stage, Input::Receipt(receipt));
    }
}
