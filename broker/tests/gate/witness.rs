//! A good unit and a good centre, with rumqttc, that must never notice what others do.

use std::time::Duration;

use broker::pki::Purpose;
use proto::{DeviceId, Shard, topic};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::fixture::{Fixture, PATIENCE};

pub(crate) const UNIT: &str = "witness-unit";
const CENTRE: &str = "witness-centre";

/// A client of rumqttc whose connection must live as long as itself.
pub(crate) struct Client {
    pub(crate) client: AsyncClient,
    messages: mpsc::Receiver<(String, Vec<u8>)>,
    _task: JoinSet<()>,
}

impl Client {
    /// Connects, and subscribes.
    pub(crate) async fn start(
        fixture: &Fixture,
        name: &str,
        purpose: Purpose,
        filter: &str,
    ) -> Self {
        fixture.issue(name, purpose);
        let port = fixture.broker.address.port();
        let mut options = MqttOptions::new(name, "localhost", port);
        let tls = TlsConfiguration::from(fixture.client_config(name));
        options.set_transport(Transport::tls_with_config(tls));
        options
            .set_keep_alive(Duration::from_secs(30))
            .set_clean_session(true);
        options.set_max_packet_size(300_000, 300_000);
        let (client, mut events) = AsyncClient::new(options, 100);
        client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        let (heard, messages) = mpsc::channel(10_000);
        let (subscribed, ready) = tokio::sync::oneshot::channel();
        let mut task = JoinSet::new();
        let name = name.to_owned();
        task.spawn(async move {
            let mut subscribed = Some(subscribed);
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        subscribed
                            .take()
                            .expect("the witness connects once")
                            .send(())
                            .unwrap();
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        heard
                            .try_send((publish.topic, publish.payload.to_vec()))
                            .ok();
                    }
                    Ok(_) => {}
                    Err(error) => panic!("{name} is disturbed: {error}"),
                }
            }
        });
        timeout(PATIENCE, ready)
            .await
            .expect("no SUBACK")
            .expect("the witness is disturbed");
        Self {
            client,
            messages,
            _task: task,
        }
    }
}

pub(crate) struct Witness {
    pub(crate) unit: Client,
    pub(crate) centre: Client,
    round: u32,
}

impl Witness {
    pub(crate) async fn start(fixture: &Fixture) -> Self {
        let device = DeviceId::new(UNIT).unwrap();
        let up = topic::up_filter(Shard::of(&device));
        let unit = Client::start(fixture, UNIT, Purpose::Unit, &topic::down(&device)).await;
        let centre = Client::start(fixture, CENTRE, Purpose::Centre, &up).await;
        let mut witness = Self {
            unit,
            centre,
            round: 0,
        };
        witness.is_undisturbed().await;
        witness
    }

    /// A message up and one down, each to the end.
    pub(crate) async fn is_undisturbed(&mut self) {
        self.round += 1;
        let said = format!("round {}", self.round).into_bytes();
        let device = DeviceId::new(UNIT).unwrap();
        for (from, to, topic) in [
            (
                &self.unit.client,
                &mut self.centre.messages,
                topic::up(&device),
            ),
            (
                &self.centre.client,
                &mut self.unit.messages,
                topic::down(&device),
            ),
        ] {
            from.publish(&topic, QoS::AtLeastOnce, false, said.clone())
                .await
                .unwrap();
            let wanted = (topic, said.clone());
            let heard =
                async { while to.recv().await.expect("the witness is disturbed") != wanted {} };
            timeout(PATIENCE, heard)
                .await
                .expect("the witness hears nothing");
        }
    }
}
