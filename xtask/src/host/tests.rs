use super::{Host, OsRelease, Package};

const QEMU: Package = Package { debian: "deb", fedora: "fed", arch: "arc", suse: "sus", brew: "bre" };

fn host(id: &str, like: &[&str], root: bool) -> Host {
    let like = like.iter().map(|&id| id.to_owned()).collect();
    Host { path: Vec::new(), os: OsRelease { id: id.to_owned(), like, codename: String::new() }, root }
}

#[test]
fn os_release_is_read_with_and_without_quotes() {
    let os = OsRelease::parse("NAME=\"X\"\nID=ubuntu\nID_LIKE=\"debian other\"\nVERSION_CODENAME=noble\n");
    assert_eq!(os.id, "ubuntu");
    assert_eq!(os.like, ["debian", "other"]);
    assert_eq!(os.codename, "noble");
}

#[test]
fn the_install_command_fits_the_distribution() {
    assert_eq!(host("debian", &[], true).install_command(&QEMU), "apt-get install deb");
    assert_eq!(host("ubuntu", &["debian"], false).install_command(&QEMU), "sudo apt-get install deb");
    assert_eq!(host("fedora", &[], false).install_command(&QEMU), "sudo dnf install fed");
    assert_eq!(host("rocky", &["rhel", "centos", "fedora"], true).install_command(&QEMU), "dnf install fed");
    assert_eq!(host("arch", &[], true).install_command(&QEMU), "pacman -S arc");
    assert_eq!(
        host("opensuse-leap", &["suse", "opensuse"], true).install_command(&QEMU),
        "zypper install sus"
    );
    assert_eq!(host("macos", &[], false).install_command(&QEMU), "brew install bre");
    assert!(host("plan9", &[], false).install_command(&QEMU).contains("deb"));
}

#[test]
fn packages_are_installed_only_by_root_and_only_with_apt() {
    assert!(!host("debian", &[], false).can_install());
    // An empty search path has no apt-get.
    assert!(!host("debian", &[], true).can_install());
    assert!(!host("fedora", &[], true).can_install());
}

#[test]
fn programs_are_found_only_on_the_search_path() {
    let mut machine = host("debian", &[], false);
    assert_eq!(machine.find("sh"), None);
    machine.path = vec!["/nonexistent".into(), "/bin".into()];
    assert_eq!(machine.find("sh"), Some("/bin/sh".into()));
}
