//! Whether a secret comes to light: the database's password and the private keys, in logs, on pages,
//! in what `config check` says, and in errors.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{PLATE, Scene, count, to_f64};
use crate::bench::figure::{Figure, Target};
use crate::programs::Programs;
use crate::system::CENTRE;

/// Lines of a PEM file that are shorter say nothing.
const KEY_LINE_BYTES_MIN: usize = 20;
/// What only its owner may do with a file.
const PRIVATE: u32 = 0o600;
/// A password in a URL where only an address belongs.
const LOGIN: &str = "hunter2-of-somebody";

/// Searches everything that the programs have said, and makes them say more.
pub(super) async fn run(scene: &Scene) -> Result<Vec<Figure>> {
    let (secrets, keys, open) = secrets(scene)?;
    let mut said = pages(scene).await?;
    said.push(scene.system.broker.log_text());
    said.push(scene.system.aggregator.log_text());
    said.extend(tokio::task::block_in_place(|| complaints(scene))?);
    let bytes: usize = said.iter().map(String::len).sum();
    let shown = secrets
        .iter()
        .filter(|secret| said.iter().any(|text| text.contains(*secret)));
    let none = Target::AtMost(0.0);
    Ok(vec![
        count("secrets.searched", bytes as u64, "bytes"),
        Figure::new(
            "secrets.shown",
            to_f64(shown.count() as u64),
            "secrets",
            none,
        ),
        count("secrets.key_files", keys, "files"),
        Figure::new("secrets.key_files_open", to_f64(open), "files", none),
    ])
}

/// The password, a plate and the lines of all keys; how many key files there are, and how many of them others
/// may read.
fn secrets(scene: &Scene) -> Result<(Vec<String>, u64, u64)> {
    let mut secrets = vec![password(scene)?, PLATE.to_owned(), LOGIN.to_owned()];
    let (mut keys, mut open) = (0, 0);
    for entry in fs::read_dir(scene.system.pki.directory())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            keys += 1;
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            open += u64::from(mode != PRIVATE);
            let text = fs::read_to_string(&path)?;
            let lines = text.lines().filter(|line| !line.starts_with('-'));
            let lines = lines.filter(|line| line.len() >= KEY_LINE_BYTES_MIN);
            // The first line of a key is that of its algorithm, the same for all.
            secrets.extend(lines.skip(1).map(ToOwned::to_owned));
        }
    }
    Ok((secrets, keys, open))
}

fn password(scene: &Scene) -> Result<String> {
    let url = scene.system.database_url();
    let login = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('@'));
    let password = login.and_then(|(login, _)| login.split_once(':'));
    Ok(password
        .context("the database has a password")?
        .1
        .to_owned())
}

async fn pages(scene: &Scene) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for server in [&scene.system.broker, &scene.system.aggregator] {
        for page in ["metrics", "readyz", "healthz"] {
            let answer = scene.system.http().get(server.page(page)).send().await?;
            said.push(answer.text().await?);
        }
    }
    let liar = &scene.stolen[3];
    for path in [
        "kvfv?limit=1000".to_owned(),
        format!("kvfv/{liar}"),
        format!("kvfv/{liar}/ledger"),
        format!("kvfv/{liar}/avg-speed"),
    ] {
        let answer = scene.system.http().get(scene.system.api(&path)).send();
        said.push(answer.await?.text().await?);
    }
    Ok(said)
}

/// What the programs say to good, broken and useless settings. Each is the real file with its secrets.
fn complaints(scene: &Scene) -> Result<Vec<String>> {
    let programs = Programs::find()?;
    let (home, password) = (scene.system.directory(), password(scene)?);
    let (broker, aggregator) = (programs.broker(), programs.aggregator());
    let check = ["config", "check", "--config"];
    let mut said = Vec::new();
    for (program, name) in [(&broker, "broker"), (&aggregator, CENTRE)] {
        let text = fs::read_to_string(home.join(format!("{name}.toml")))?;
        ensure!(
            name == "broker" || text.contains(&password),
            "{name} knows the password"
        );
        let spoilt = [
            text.clone(),
            // A string without its end, a key that is none, an entry of another type, an odd port.
            text.replacen(&password, &format!("{password}\n"), 1),
            text.replacen("url = ", "urll = ", 1),
            text.replacen("url = ", "url = 5 #", 1),
            text.replacen("127.0.0.1:", "127.0.0.1:x", 9),
            text.replacen(
                "127.0.0.1:",
                &format!("mqtts://verst:{LOGIN}@127.0.0.1:x"),
                9,
            ),
            text.replacen(
                "localhost:",
                &format!("mqtts://verst:{LOGIN}@localhost:x"),
                9,
            ),
        ];
        for text in spoilt {
            said.push(says(program, &check, &home.join("spoilt.toml"), &text)?);
        }
    }
    // A password that the server refuses, and one that looks like an option.
    let text = fs::read_to_string(home.join(format!("{CENTRE}.toml")))?;
    for wrong in [format!("{password}0"), format!("a b?{password}=c")] {
        let text = text.replacen(&password, &wrong, 1);
        said.push(says(
            &aggregator,
            &["migrate", "--config"],
            &home.join("spoilt.toml"),
            &text,
        )?);
    }
    // A file of the password that is none.
    let folder = format!("password_file = \"{}\"\nurl = ", home.display());
    let text = text.replacen("url = ", &folder, 1);
    for command in ["run", "migrate"] {
        let file = home.join("spoilt.toml");
        said.push(says(&aggregator, &[command, "--config"], &file, &text)?);
    }
    // A key where a certificate should be, and one that belongs to another.
    let text = fs::read_to_string(home.join("broker.toml"))?;
    for wrong in ["ca.key", "mallory-0001.key"] {
        for spoilt in ["broker.pem", "broker.key"] {
            let text = text.replacen(spoilt, wrong, 1);
            said.push(says(
                &broker,
                &["run", "--config"],
                &home.join("spoilt.toml"),
                &text,
            )?);
        }
    }
    Ok(said)
}

/// Everything that a program says to these settings. It must refuse, or only check.
fn says(program: &Path, arguments: &[&str], file: &Path, text: &str) -> Result<String> {
    fs::write(file, text)?;
    let output = Command::new(program).args(arguments).arg(file).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).into_owned())
}
