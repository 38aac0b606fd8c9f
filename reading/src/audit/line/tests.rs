use super::*;

fn line() -> Line {
    let entry = Entry {
        fields: [("mac".to_owned(), "revealed".to_owned())].into(),
        reason: Some("\"mac\":\"00\" is no member".to_owned()),
        ..Entry::new(Event::Reveal)
    };
    Line::new([7; 16], 2, "2026-11-28T11:00:02Z", [9; 32], entry)
}

#[test]
fn a_line_is_read_as_it_was_written() {
    let line = line();
    assert_eq!(Line::read(&line.to_bytes()), Ok(line));
}

#[test]
fn what_is_not_canonical_is_refused() {
    let text = String::from_utf8(line().to_bytes()).unwrap();
    for changed in [
        text.replace("\"seq\":2", "\"seq\": 2"),
        text.replace("\"seq\":2", "\"seq\":2,\"unknown\":1"),
        text.replace("\"seq\":2", "\"seq\":2,\"seq\":2"),
        text.replace("\"seq\":2", "\"kids\":[],\"seq\":2"),
        text.replace("\"seq\":2", "\"seq\":2.0"),
        text.replace("\"seq\":2", "\"seq\":-2"),
        text.replace("\"v\":1", "\"v\":2"),
        text.replace("0909", "090A"),
        text.replace("11:00:02Z", "11:00:02.0Z"),
        text.replace("revealed", "reveale\\u0064"),
        format!("{text} "),
    ] {
        assert_ne!(changed, text);
        assert_eq!(Line::read(changed.as_bytes()), Err(LineFault::Form), "{changed}");
    }
}

#[test]
fn members_go_with_their_events() {
    let with = |change: fn(&mut Line)| {
        let mut line = line();
        change(&mut line);
        Line::read(&line.to_bytes()).map(drop)
    };
    assert_eq!(with(|line| line.seq = 1), Err(LineFault::Members), "line 1 without k1");
    assert_eq!(with(|line| line.k1 = Some(String::new())), Err(LineFault::Members));
    assert_eq!(with(|line| line.from = Some(1)), Err(LineFault::Members));
    assert_eq!(with(|line| line.entry.event = Event::Checkpoint), Err(LineFault::Members));
    assert_eq!(with(|line| line.entry.subjects = Some(3)), Err(LineFault::Members));
    assert_eq!(with(|line| line.entry.reason = Some("ä".repeat(200))), Ok(()));
    assert_eq!(with(|line| line.entry.reason = Some("ä".repeat(201))), Err(LineFault::Reason));
    assert_eq!(cut_reason(&"ä".repeat(201)), "ä".repeat(200));
}

#[test]
fn the_mac_is_found_behind_what_callers_write() {
    let bytes = line().to_bytes();
    let parts = without_mac(&bytes, mac_place(&bytes).unwrap());
    let rest = String::from_utf8(parts.concat()).unwrap();
    assert!(rest.contains("\"mac\":\"revealed\""), "the field stays: {rest}");
    assert!(!rest.contains(&"0".repeat(64)), "{rest}");
    assert!(serde_json::from_str::<serde_json::Value>(&rest).is_ok());
}

#[test]
fn events_are_called_as_they_are_written() {
    for event in [Event::LoginRefused, Event::AuditRead, Event::Honey, Event::Prune] {
        assert_eq!(serde_json::json!(event), event.as_str());
    }
}
