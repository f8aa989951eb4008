use std::fs;
use std::os::unix::fs::PermissionsExt;

use service::tls::{TimeFloor, client_config, load_identity, load_revocations, server_config};
use x509_parser::parse_x509_crl;

use super::*;

const NOW_MS: i64 = 1_800_000_000_000;

struct Pki {
    folder: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        init(folder.path(), "Test CA", 3_650, NOW_MS).unwrap();
        Self { folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn issue(
        &self,
        names: &[&str],
        purpose: Purpose,
        san: &[&str],
        renew: bool,
    ) -> Result<(), PkiError> {
        let names: Vec<_> = names
            .iter()
            .map(|name| DeviceId::new(name).unwrap())
            .collect();
        let san = san.iter().map(|san| (*san).to_owned()).collect();
        let order = Order {
            purpose,
            san,
            days: 365,
            renew,
        };
        let mut authority = Authority::open(self.folder.path()).unwrap();
        authority.issue(&names, &order, self.folder.path(), NOW_MS)
    }

    fn revoked(&self) -> usize {
        let lists = load_revocations(&self.path(CRL)).unwrap();
        let (_, list) = parse_x509_crl(&lists[0]).unwrap();
        list.iter_revoked_certificates().count()
    }
}

#[test]
fn what_is_issued_serves_both_ends_of_tls() {
    let pki = Pki::new();
    pki.issue(
        &["broker"],
        Purpose::Server,
        &["localhost", "127.0.0.1"],
        false,
    )
    .unwrap();
    pki.issue(&["KV1"], Purpose::Unit, &[], false).unwrap();
    let server = load_identity(&pki.path("broker.pem"), &pki.path("broker.key")).unwrap();
    let unit = load_identity(&pki.path("KV1.pem"), &pki.path("KV1.key")).unwrap();
    assert_eq!((server.role, unit.role), (Role::Centre, Role::Unit));
    assert_eq!(unit.name.as_str(), "KV1");
    let ca = pki.path(CA_CERTIFICATE);
    assert!(server_config(&server, &ca, Some(&pki.path(CRL))).is_ok());
    assert!(client_config(&unit, &ca, &TimeFloor::new()).is_ok());
}

#[test]
fn a_server_certificate_is_of_no_use_to_a_client_nor_the_reverse() {
    let pki = Pki::new();
    pki.issue(&["broker"], Purpose::Server, &["localhost"], false)
        .unwrap();
    pki.issue(&["centre"], Purpose::Centre, &["centre.example"], false)
        .unwrap();
    pki.issue(&["KV1"], Purpose::Unit, &[], false).unwrap();
    let usage = |name: &str| {
        let pem = fs::read(pki.path(&format!("{name}.pem"))).unwrap();
        let (_, block) = parse_x509_pem(&pem).unwrap();
        let certificate = block.parse_x509().unwrap();
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        (usage.client_auth, usage.server_auth)
    };
    assert_eq!(usage("broker"), (false, true));
    assert_eq!(usage("centre"), (true, true));
    assert_eq!(usage("KV1"), (true, false));
}

#[test]
fn private_keys_are_for_their_owner_alone() {
    let pki = Pki::new();
    pki.issue(&["KV1"], Purpose::Unit, &[], false).unwrap();
    for file in [CA_KEY, "KV1.key"] {
        let mode = fs::metadata(pki.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_name_is_issued_once_unless_renewed_and_keeps_its_purpose() {
    let pki = Pki::new();
    pki.issue(&["KV1"], Purpose::Unit, &[], false).unwrap();
    let before = fs::read(pki.path("KV1.pem")).unwrap();
    let again = pki
        .issue(&["KV2", "KV1"], Purpose::Unit, &[], false)
        .unwrap_err();
    assert!(again.to_string().contains("use --renew"), "{again}");
    assert!(!pki.path("KV2.pem").exists(), "a refusal issues nothing");
    assert_eq!(fs::read(pki.path("KV1.pem")).unwrap(), before);
    let other = pki.issue(&["KV1"], Purpose::Centre, &[], true).unwrap_err();
    assert!(other.to_string().contains("was issued as unit"), "{other}");
    let twice = pki.issue(&["KV3", "KV3"], Purpose::Unit, &[], false);
    assert!(matches!(twice, Err(PkiError::Taken(_))));
    pki.issue(&["KV1"], Purpose::Unit, &[], true).unwrap();
    assert_ne!(fs::read(pki.path("KV1.pem")).unwrap(), before);
}

#[test]
fn revoking_a_name_ends_all_its_certificates_and_frees_it() {
    let pki = Pki::new();
    assert_eq!(pki.revoked(), 0, "a new authority has an empty list");
    pki.issue(&["KV1"], Purpose::Unit, &[], false).unwrap();
    pki.issue(&["KV1"], Purpose::Unit, &[], true).unwrap();
    pki.issue(&["KV2"], Purpose::Unit, &[], false).unwrap();
    let revoke = |what: &str| {
        Authority::open(pki.folder.path())
            .unwrap()
            .revoke(what, NOW_MS)
    };
    assert_eq!(revoke("KV1").unwrap(), 2);
    assert_eq!(pki.revoked(), 2);
    assert!(matches!(revoke("KV1"), Err(PkiError::Unknown(_))));
    pki.issue(&["KV1"], Purpose::Unit, &[], false).unwrap();
    assert_eq!(pki.revoked(), 2);
}

#[test]
fn a_serial_number_revokes_one_certificate() {
    let pki = Pki::new();
    pki.issue(&["KV1"], Purpose::Unit, &[], false).unwrap();
    pki.issue(&["KV1"], Purpose::Unit, &[], true).unwrap();
    let mut authority = Authority::open(pki.folder.path()).unwrap();
    let serial = authority.index.serials_in_force("KV1").remove(0);
    assert_eq!(authority.revoke(&serial.to_uppercase(), NOW_MS).unwrap(), 1);
    assert!(authority.index.in_force(&DeviceId::new("KV1").unwrap()));
    assert_eq!(pki.revoked(), 1);
}

#[test]
fn an_authority_is_never_overwritten() {
    let pki = Pki::new();
    let again = init(pki.folder.path(), "Test CA", 10, NOW_MS);
    assert!(matches!(again, Err(PkiError::Exists(_))));
}

#[test]
fn a_server_needs_a_name_that_clients_can_verify() {
    let pki = Pki::new();
    let none = pki.issue(&["broker"], Purpose::Server, &[], false);
    assert!(matches!(none, Err(PkiError::NoSan)));
    let bad = pki.issue(&["broker"], Purpose::Server, &["not a host"], false);
    assert!(matches!(bad, Err(PkiError::San(_))));
}

#[test]
fn a_damaged_index_is_named_by_its_line() {
    let pki = Pki::new();
    pki.issue(&["KV1"], Purpose::Unit, &[], false).unwrap();
    let mut text = fs::read_to_string(pki.path(index::FILE)).unwrap();
    text.push_str("{\"revoked\":{\"serial\":\"00\",\"at_ms\":1}}\n");
    fs::write(pki.path(index::FILE), text).unwrap();
    let error = Authority::open(pki.folder.path())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("line 2: serial 00 was never issued"),
        "{error}"
    );
}

#[test]
fn certificates_end_with_the_authority_at_the_latest() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), "Short CA", 10, NOW_MS).unwrap();
    let pki = Pki { folder };
    pki.issue(&["KV1"], Purpose::Unit, &[], false).unwrap();
    let unit = load_identity(&pki.path("KV1.pem"), &pki.path("KV1.key")).unwrap();
    assert_eq!(unit.not_after.as_millisecond(), NOW_MS + days_ms(10));
}
