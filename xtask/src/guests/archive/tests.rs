use super::parse_uri_line;

#[test]
fn the_name_and_size_of_a_download_are_read() {
    let line =
        "'http://x/pool/busybox-static_1.35%2b.deb' busybox-static_1%3a1.35_arm64.deb 822236 SHA256:73\n";
    assert_eq!(parse_uri_line(line), Some(("busybox-static_1%3a1.35_arm64.deb", 822_236)));
    assert_eq!(parse_uri_line("E: nothing\n"), None);
    assert_eq!(parse_uri_line("'u' name notanumber\n"), None);
}
