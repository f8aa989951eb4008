//! The units that operators install.

use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::programs::Programs;
use testbed::workdir::WorkDir;

/// Where the units say that the programs are.
const INSTALLED: &str = "/usr/local/bin/";

fn units() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let entries = directory.read_dir().expect("the directory of units");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut units: Vec<PathBuf> = paths.collect();
    units.sort_unstable();
    units
}

/// What systemd says of a unit under the name of an instance; none without systemd, or where it does
/// not even find a fault that was put there. It need not run.
fn faults(directory: &Path, name: &str, text: &str) -> Option<Vec<String>> {
    let path = directory.join(name);
    let said_of = |text: &str| {
        std::fs::write(&path, text).expect("written");
        let mut verify = Command::new("systemd-analyze");
        let output = verify.arg("verify").arg(&path).output().ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // It looks at what the unit depends on, too.
        let of_unit = said.lines().filter(|line| line.contains("verst-"));
        Some(of_unit.map(str::to_owned).collect::<Vec<String>>())
    };
    let planted = said_of(&text.replace("LimitNOFILE", "LimitNFILE"))?;
    if planted.is_empty() {
        return None;
    }
    said_of(text)
}

#[test]
fn systemd_finds_no_fault_in_two_instances_of_each_unit() {
    let programs = Programs::find().expect("the programs are built");
    let built = programs.broker().with_file_name("");
    let built = built.to_str().expect("a path in UTF-8");
    let directory = WorkDir::new("units").expect("a directory");
    let units = units();
    assert_eq!(units.len(), 2, "{units:?}");
    for unit in units {
        let text = std::fs::read_to_string(&unit).expect("readable");
        assert!(text.contains(INSTALLED), "{}", unit.display());
        let name = unit.file_name().expect("a name").to_string_lossy();
        for instance in ["@1.", "@2."] {
            let name = name.replace("@.", instance);
            match faults(directory.path(), &name, &text.replace(INSTALLED, built)) {
                Some(faults) => assert_eq!(faults, Vec::<String>::new()),
                None => println!("{name} is not verified: no systemd-analyze that can"),
            }
        }
    }
}
