//! The file as it is written: every key optional, nothing judged.

use crate::units::{Age, Money, Percent, Secret, Size, Span};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub mountpoint: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub runtime_dir: Option<PathBuf>,
    pub node: Option<String>,
    pub archive: Option<String>,
    pub passthrough: Option<String>,
    pub resend: Option<String>,
    pub drain_timeout: Option<Span>,
    pub target: Vec<RawTarget>,
    pub write_back: RawWriteBack,
    pub space: RawSpace,
    pub delete: RawDelete,
    pub cache: RawCache,
    pub read: RawRead,
    pub holds: RawHolds,
    pub calls: RawCalls,
    pub stitched: RawStitched,
    pub policy: Vec<RawPolicy>,
    pub retention: RawRetention,
    pub metrics: RawMetrics,
    pub encryption: RawEncryption,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    pub listen: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTarget {
    pub name: Option<String>,
    pub url: Option<String>,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
    pub credentials_file: Option<String>,
    pub required: Option<bool>,
    pub allow_http: Option<bool>,
    pub price_per_gb_month: Option<Money>,
    pub storage_class: Option<String>,
    pub sse: Option<String>,
    pub sse_kms_key_id: Option<String>,
    pub sse_bucket_key: Option<bool>,
    pub sse_kms_context: Vec<String>,
    pub sse_c_key_file: Option<PathBuf>,
    pub sse_c_key_command: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPolicy {
    pub name: Option<String>,
    pub path: Vec<String>,
    pub campaign: Vec<String>,
    pub ingroup: Vec<String>,
    pub list: Vec<String>,
    pub agent: Vec<String>,
    pub accountcode: Vec<String>,
    pub did: Vec<String>,
    pub number: Vec<String>,
    pub direction: Vec<String>,
    pub disposition: Vec<String>,
    pub extension: Vec<String>,
    pub duration_min: Option<Span>,
    pub duration_max: Option<Span>,
    pub archive_after: Option<Age>,
    pub keep_local: Option<Age>,
    pub expire_after: Option<Age>,
    pub expire_from: Option<String>,
    pub worm: Option<Span>,
    pub worm_mode: Option<String>,
    pub targets: Vec<String>,
    pub delete_mode: Option<String>,
    pub storage_class: Option<String>,
    pub compress: Option<String>,
    pub encrypt_to: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRetention {
    pub max_delete_per_day: Option<Percent>,
    pub audit_keep: Option<Age>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWriteBack {
    pub archive_after: Option<Age>,
    pub keep_local: Option<Age>,
    pub adopt_keep_local: Option<Age>,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub uploads: Option<u64>,
    pub bandwidth: Option<String>,
    pub settle: Option<Span>,
    pub sync_after: Option<Age>,
    pub journal_interval: Option<Span>,
    pub scrub_every: Option<Age>,
    pub repair_headers: Option<bool>,
    pub compress: Option<String>,
    pub compress_min_gain: Option<Percent>,
    pub encrypt_to: Vec<String>,
    pub hide_names: Option<bool>,
    pub snapshot_every: Option<Age>,
    pub snapshot_keep: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSpace {
    pub high_water: Option<Percent>,
    pub low_water: Option<Percent>,
    pub reserve: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDelete {
    pub delete_mode: Option<String>,
    pub trash_keep: Option<Age>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCache {
    pub dir: Option<PathBuf>,
    pub max_size: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRead {
    pub read_timeout: Option<Span>,
    pub recordings_per_minute: Option<u64>,
    pub identity_file: Option<PathBuf>,
    pub identity_command: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHolds {
    pub hold_settle: Option<Span>,
    pub hold_lift_grace: Option<Span>,
    pub four_eyes: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStitched {
    pub enabled: Option<bool>,
    pub directory: Option<String>,
    pub listed: Option<bool>,
    pub layout: Option<String>,
    pub rate: Option<String>,
    pub riff64: Option<bool>,
    pub archive: Option<bool>,
    pub keep_expired: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCalls {
    pub preset: Option<String>,
    pub source: Option<String>,
    pub path: Option<PathBuf>,
    pub columns: Vec<String>,
    pub table: Option<String>,
    pub query: Option<String>,
    pub cel: Option<String>,
    pub url: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub tls_ca: Option<PathBuf>,
    pub time_zone: Option<String>,
    pub names: Vec<String>,
    pub every: Option<Span>,
    pub timeout: Option<Span>,
    pub quiet: Option<Span>,
    pub cache_max_size: Option<Size>,
    pub same_account: Option<bool>,
    pub require_cdr: Option<bool>,
    pub require_cdr_for: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawEncryption {
    pub require_local_encryption: Option<bool>,
    pub local_key_file: Option<PathBuf>,
}
