//! Channel events: what Asterisk tells while a call goes on.

use super::super::ingest::CelEvent;
use super::super::time::Zone;

/// The columns of Asterisk's sample for `cel_custom`.
pub(super) const SAMPLE: &[&str] = &[
    "eventtype",
    "eventtime",
    "cid_name",
    "cid_num",
    "cid_ani",
    "cid_rdnis",
    "cid_dnid",
    "exten",
    "context",
    "channame",
    "appname",
    "appdata",
    "amaflags",
    "accountcode",
    "uniqueid",
    "linkedid",
    "peer",
    "userfield",
    "userdeftype",
    "extra",
];

/// One event, being collected.
#[derive(Debug, Default)]
pub(in super::super) struct Event {
    event: CelEvent,
    time: String,
    app: String,
    data: String,
}

impl Event {
    /// Takes one column.
    pub(in super::super) fn set(&mut self, name: &str, value: &str) {
        let place = match name.to_ascii_lowercase().as_str() {
            "eventtype" => &mut self.event.kind,
            "eventtime" => &mut self.time,
            "uniqueid" => &mut self.event.uniqueid,
            "linkedid" => &mut self.event.linkedid,
            "appname" => &mut self.app,
            "appdata" => &mut self.data,
            "extra" | "eventextra" => {
                self.event.others = others(value);
                return;
            }
            _ => return,
        };
        value.clone_into(place);
    }

    /// The event, if it says when it was.
    pub(in super::super) fn finish(self, zone: &Zone) -> Result<CelEvent, String> {
        let mut event = self.event;
        let Some(at) = zone.parse(&self.time, None) else {
            return Err(format!("{:?} is no time", super::super::fields::shown(&self.time)));
        };
        event.at = at;
        let recorder = self.app.eq_ignore_ascii_case("MixMonitor");
        if recorder && event.kind.ends_with("APP_START") {
            let file = self.data.split(',').next().unwrap_or_default();
            file.clone_into(&mut event.file);
        }
        Ok(event)
    }
}

/// Channels that a transfer names: `{"channel2_uniqueid":"...", ...}`.
fn others(extra: &str) -> Vec<String> {
    if !extra.contains("_uniqueid") {
        return Vec::new();
    }
    let parsed: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(extra);
    let named = |(key, value): (String, serde_json::Value)| {
        key.ends_with("_uniqueid").then(|| value.as_str().map(str::to_owned)).flatten()
    };
    parsed.map(|map| map.into_iter().filter_map(named).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_and_a_transfer_are_understood() {
        let mut event = Event::default();
        for (name, value) in [
            ("eventtype", "APP_START"),
            ("eventtime", "2026-11-21 02:27:09.123"),
            ("uniqueid", "1.2"),
            ("linkedid", "1.1"),
            ("appname", "MixMonitor"),
            ("appdata", "2026/11/21/a.wav,ai(X),"),
            ("extra", "{\"channel2_uniqueid\":\"1.7\",\"bridge1_id\":\"b\"}"),
        ] {
            event.set(name, value);
        }
        let event = event.finish(&Zone::utc()).expect("an event");
        assert_eq!(event.file, "2026/11/21/a.wav");
        assert_eq!(event.others, ["1.7"]);
        assert_eq!(event.at.subsec_nanos(), 123_000_000);
    }

    #[test]
    fn extra_that_is_no_json_says_nothing() {
        assert!(others("x_uniqueid").is_empty() && others("").is_empty());
        assert!(Event::default().finish(&Zone::utc()).is_err());
    }
}
