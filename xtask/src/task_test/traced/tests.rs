use super::{Counts, check};

/// A trace of these events, after the names of a track.
fn trace(events: &str) -> String {
    let names = r#"{"name":"process_name","ph":"M","pid":1,"args":{"name":"x"}},
        {"name":"thread_name","ph":"M","pid":1,"tid":0,"args":{"name":"CPU 0"}}"#;
    format!("{{\"traceEvents\":[{names}{events}]}}")
}

fn event(category: &str, begin: f64, length: f64) -> String {
    format!(
        r#",{{"name":"n","cat":"{category}","ph":"X","pid":1,"tid":0,"ts":{begin},"dur":{length},"args":{{"answer":"populated"}}}}"#
    )
}

fn complaint(events: &str) -> String {
    format!("{:#}", check(&trace(events)).expect_err("it is no good trace"))
}

#[test]
fn what_is_in_a_trace_is_counted() {
    let events = [
        event("operation", 0.0, 10.0),
        event("invalidation", 1.0, 2.0),
        event("fault", 10.0, 1.0),
        event("refused", 12.0, 0.0),
        event("fault", 13.0, 1.0).replace("populated", "for a device"),
        r#",{"name":"frames in use","ph":"C","ts":14,"pid":1,"args":{"frames":7}}"#.to_owned(),
    ];
    let counts = check(&trace(&events.concat())).expect("a good trace");
    assert_eq!(counts, Counts { faults: 2, operations: 1, invalidations: 1, counters: 1 });
}

#[test]
fn what_is_wrong_with_a_trace_is_named() {
    assert!(format!("{:#}", check("[").expect_err("no JSON")).contains("no JSON"));
    assert!(format!("{:#}", check("{}").expect_err("nothing")).contains("no traceEvents"));
    assert!(complaint(&(event("fault", 2.0, 1.0) + &event("fault", 1.0, 1.0))).contains("time goes back"));
    assert!(complaint(&(event("fault", 1.0, 2.0) + &event("fault", 2.0, 2.0))).contains("overlaps"));
    assert!(complaint(&event("other", 1.0, 1.0)).contains("category"));
    assert!(complaint(&event("fault", 1.0, -1.0)).contains("of {"));
    assert!(complaint(&event("fault", 1.0, 1.0).replace("\"tid\":0", "\"tid\":1")).contains("no such track"));
    assert!(complaint(&event("fault", 1.0, 1.0).replace("\"X\"", "\"B\"")).contains("phase"));
    assert!(complaint(r#",{"name":"n","ph":"C","ts":1,"pid":1,"args":{}}"#).contains("of {"));
}
