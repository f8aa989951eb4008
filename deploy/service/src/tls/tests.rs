use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::testing::{DAY_MS, Pki, broken};
use super::*;

/// What a finished handshake was.
#[derive(Debug)]
struct Met {
    version: ProtocolVersion,
    kind: HandshakeKind,
    client: PeerIdentity,
}

/// A handshake and one byte from the server, which brings TLS 1.3 tickets along.
async fn meet(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Met, String> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let serve = async {
        let mut stream = TlsAcceptor::from(server.clone()).accept(far).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        let shown = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain[0].clone());
        Ok::<_, std::io::Error>((shown, stream))
    };
    let connect = async {
        let name = "centre-1".try_into().unwrap();
        let mut stream = TlsConnector::from(client.clone())
            .connect(name, near)
            .await?;
        stream.read_exact(&mut [0]).await?;
        let session = stream.get_ref().1;
        let kind = session.handshake_kind().unwrap();
        Ok::<_, std::io::Error>((session.protocol_version().unwrap(), kind))
    };
    let (served, connected) = tokio::join!(serve, connect);
    let both = served.map_err(|e| format!("server: {e}"));
    let (version, kind) = connected.map_err(|e| format!("client: {e}"))?;
    let shown = both?.0.unwrap();
    Ok(Met {
        version,
        kind,
        client: peer_identity(&shown).unwrap(),
    })
}

fn unit_of(pki: &Pki, floor: &TimeFloor) -> Arc<ClientConfig> {
    let unit = pki.identity("KV1", Role::Unit);
    Arc::new(client_config(&unit, &pki.roots(), floor).unwrap())
}

fn centre_of(pki: &Pki) -> Arc<ServerConfig> {
    let centre = pki.identity("centre-1", Role::Centre);
    Arc::new(server_config(&centre, &pki.roots(), None).unwrap())
}

#[tokio::test]
async fn both_ends_meet_over_tls_1_3_and_know_the_client() {
    let pki = Pki::new();
    let met = meet(&unit_of(&pki, &TimeFloor::new()), &centre_of(&pki))
        .await
        .unwrap();
    assert_eq!(met.version, ProtocolVersion::TLSv1_3);
    assert_eq!(met.client.to_string(), "unit KV1");
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_served() {
    let pki = Pki::new();
    let unit = pki.identity("KV1", Role::Unit);
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(load_roots(&pki.roots()).unwrap())
        .with_client_auth_cert(unit.chain.clone(), unit.key.clone_key())
        .unwrap();
    let met = meet(&Arc::new(client), &centre_of(&pki)).await.unwrap();
    assert_eq!(met.version, ProtocolVersion::TLSv1_2);
}

#[tokio::test]
async fn a_second_connection_resumes_the_session() {
    let pki = Pki::new();
    let (client, server) = (unit_of(&pki, &TimeFloor::new()), centre_of(&pki));
    assert_eq!(
        meet(&client, &server).await.unwrap().kind,
        HandshakeKind::Full
    );
    let again = meet(&client, &server).await.unwrap();
    assert_eq!(again.kind, HandshakeKind::Resumed);
    assert_eq!(again.client.name.as_str(), "KV1");
}

#[tokio::test]
async fn a_unit_whose_clock_says_1970_judges_at_the_build_time() {
    let pki = Pki::new();
    let client = unit_of(&pki, &TimeFloor::with_clock(|| 0));
    assert!(meet(&client, &centre_of(&pki)).await.is_ok());

    let expired = pki.issue("centre-1", Role::Centre, -2 * DAY_MS, -DAY_MS);
    let expired = load_identity(&expired.cert, &expired.key).unwrap();
    let server = Arc::new(server_config(&expired, &pki.roots(), None).unwrap());
    let client = unit_of(&pki, &TimeFloor::with_clock(|| 0));
    let refused = meet(&client, &server).await.unwrap_err();
    assert!(refused.contains("expired"), "{refused}");
}

#[tokio::test]
async fn the_last_centre_time_makes_a_newer_certificate_valid() {
    let pki = Pki::new();
    let newer = pki.issue("centre-1", Role::Centre, 10 * DAY_MS, 20 * DAY_MS);
    let newer = load_identity(&newer.cert, &newer.key).unwrap();
    let server = Arc::new(server_config(&newer, &pki.roots(), None).unwrap());
    let floor = TimeFloor::with_clock(|| 0);
    let client = unit_of(&pki, &floor);
    let refused = meet(&client, &server).await.unwrap_err();
    assert!(refused.contains("not valid yet"), "{refused}");
    floor.raise(build_time_ms() + 11 * DAY_MS);
    assert!(meet(&client, &server).await.is_ok());
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let floor = TimeFloor::new();
    let refused = meet(&unit_of(&ours, &floor), &centre_of(&theirs))
        .await
        .unwrap_err();
    assert!(
        refused.starts_with("client: invalid peer certificate"),
        "{refused}"
    );

    // Trusts our root, but was issued elsewhere.
    let stranger = theirs.identity("KV1", Role::Unit);
    let client = Arc::new(client_config(&stranger, &ours.roots(), &floor).unwrap());
    assert!(meet(&client, &centre_of(&ours)).await.is_err());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let pki = Pki::new();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(load_roots(&pki.roots()).unwrap())
        .with_no_client_auth();
    assert!(meet(&Arc::new(client), &centre_of(&pki)).await.is_err());
}

#[tokio::test]
async fn a_revoked_unit_is_refused_and_another_is_not() {
    let pki = Pki::new();
    let centre = pki.identity("centre-1", Role::Centre);
    for (revoked, served) in [("KV1", false), ("KV2", true)] {
        let lists = pki.revoke(&[revoked]);
        let server = server_config(&centre, &pki.roots(), Some(&lists)).unwrap();
        let met = meet(&unit_of(&pki, &TimeFloor::new()), &Arc::new(server)).await;
        assert_eq!(met.is_ok(), served, "{revoked} revoked: {met:?}");
    }
}

#[test]
fn an_identity_tells_name_role_and_end() {
    let pki = Pki::new();
    let files = pki.issue("KV7", Role::Unit, 0, DAY_MS);
    let identity = load_identity(&files.cert, &files.key).unwrap();
    assert_eq!((identity.name.as_str(), identity.role), ("KV7", Role::Unit));
    assert_eq!(
        identity.not_after.as_second(),
        (build_time_ms() + DAY_MS) / 1_000
    );
    let shown = format!("{identity:?}");
    assert!(
        shown.contains("KV7") && shown.contains("[redacted]"),
        "{shown}"
    );
}

#[test]
fn files_that_do_not_fit_are_faults_that_name_them() {
    let pki = Pki::new();
    let (one, two) = (
        pki.issue("KV1", Role::Unit, 0, DAY_MS),
        pki.issue("KV2", Role::Unit, 0, DAY_MS),
    );
    let fault = |cert: &Path, key: &Path| load_identity(cert, key).unwrap_err().to_string();
    assert!(fault(&one.cert, &two.key).contains("KV2.key: it is not the key of certificate"));
    assert!(fault(&one.key, &one.key).contains("KV1.key: it holds no CERTIFICATE block"));
    assert!(
        fault(&one.cert, &one.cert).contains("KV1.pem: it holds no PEM block of a private key")
    );
    assert!(fault(&one.cert, Path::new("/nonexistent.key")).contains("/nonexistent.key: No such"));
}

#[test]
fn a_broken_key_file_is_never_quoted() {
    let pki = Pki::new();
    let one = pki.issue("KV1", Role::Unit, 0, DAY_MS);
    for text in [
        "-----BEGIN PRIVATE KEY-----\nSECRET\n",
        "-----BEGIN PRIVATE KEY SECRET\nSECRET\n-----END PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\nSECRET!\n-----END PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\nU0VDUkVU\n-----END PRIVATE KEY-----\n",
    ] {
        let key = broken(pki.path("").as_path(), text);
        let fault = load_identity(&one.cert, &key).unwrap_err().to_string();
        assert!(
            fault.contains("broken.pem: ") && !fault.contains("SECRET"),
            "{fault}"
        );
    }
}

#[test]
fn roots_and_lists_that_are_empty_are_refused() {
    let pki = Pki::new();
    let empty = broken(pki.path("").as_path(), "");
    assert!(
        load_roots(&empty)
            .unwrap_err()
            .to_string()
            .contains("holds no CERTIFICATE block")
    );
    assert!(
        load_revocations(&empty)
            .unwrap_err()
            .to_string()
            .contains("holds no X509 CRL block")
    );
}

/// Log lines of one thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_key_that_others_may_read_is_used_with_a_warning() {
    let pki = Pki::new();
    let files = pki.issue("KV1", Role::Unit, 0, DAY_MS);
    for (mode, warned) in [(0o600, false), (0o640, true), (0o604, true)] {
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(mode)).unwrap();
        let lines = Lines::default();
        let writer = lines.clone();
        let logger = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(logger, || load_identity(&files.cert, &files.key))
            .unwrap();
        let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            said.contains("private key is open to other users"),
            warned,
            "{mode:o}: {said}"
        );
    }
}
