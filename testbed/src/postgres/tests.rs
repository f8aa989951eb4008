use super::*;

#[test]
fn committed_rows_survive_the_kill_of_every_process_of_the_server() {
    let mut cluster = Cluster::start(Options::default()).expect("a cluster");
    cluster.database("kept").expect("a database");
    cluster
        .sql("kept", "CREATE TABLE t AS SELECT 42 AS answer")
        .expect("committed");
    let first = cluster.id().expect("running");
    cluster.stop_immediate();
    assert_eq!(children_of(first), Vec::<u32>::new());
    cluster.restart().expect("recovered");
    assert_eq!(
        cluster
            .sql("kept", "SELECT answer FROM t")
            .expect("answer")
            .trim(),
        "42"
    );
}

#[test]
fn a_dropped_cluster_leaves_neither_process_nor_file_nor_shared_memory() {
    let mut cluster = Cluster::start(Options::fast()).expect("a cluster");
    let home = cluster.directory.path().to_owned();
    let killed = cluster.id().expect("running");
    cluster.stop_immediate();
    let segment = shared_segment(&home.join("data/postmaster.pid")).expect("left by the kill");
    drop(cluster);
    assert!(!home.exists());
    assert!(!Path::new(&format!("/proc/{killed}")).exists());
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").expect("readable");
    let ids = segments
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    assert!(
        !ids.into_iter().any(|id| id == segment),
        "segment {segment} is left"
    );
}

#[test]
fn databases_are_separate_and_their_names_checked() {
    let cluster = Cluster::shared();
    let one = cluster.fresh_database().expect("a database");
    let two = cluster.fresh_database().expect("a database");
    assert_ne!(one, two);
    assert!(matches!(
        cluster.database("a\"; --"),
        Err(ClusterError::BadName(_))
    ));
}
