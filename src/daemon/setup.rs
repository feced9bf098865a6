//! From the configuration to what each room wants.

use crate::config::{Config, Target};
use crate::policy::{Marks, Patterns, RuleError, Rules};
use crate::store::{Secret, TargetOptions};
use crate::vfs::Deletion;

/// The rules of the configuration.
///
/// # Errors
/// A pattern that is none.
pub fn rules(config: &Config) -> Result<Rules, RuleError> {
    let write_back = &config.write_back;
    Ok(Rules {
        archive_after: write_back.archive_after.duration(),
        keep_local: write_back.keep_local.duration(),
        adopt_keep_local: write_back.adopt_keep_local.duration(),
        include: Patterns::new(&write_back.include)?,
        exclude: Patterns::new(&write_back.exclude)?,
        settle: write_back.settle,
        sync_after: write_back.sync_after.duration(),
        marks: Marks { high: config.space.high_water.0, low: config.space.low_water.0 },
        bandwidth: write_back.bandwidth.clone(),
        max_delete_per_day: config.retention.max_delete_per_day.0,
        compress: write_back.compress,
        seal_to: write_back.encrypt_to.clone(),
        hide_names: write_back.hide_names,
        delete_mode: config.delete.mode,
        trash_keep: config.delete.trash_keep.duration(),
        audit_keep: config.retention.audit_keep.duration(),
        require_cdr: config.calls.as_ref().and_then(|calls| calls.require_cdr),
        policies: config.policies.clone(),
    })
}

/// What deletions do.
///
/// # Errors
/// A pattern that is none.
pub fn deletion(config: &Config) -> Result<Deletion, RuleError> {
    let required = config.targets.iter().filter(|t| t.required).map(|t| t.name.clone()).collect();
    Ok(Deletion { rules: rules(config)?, required })
}

/// A target as the store wants it.
pub fn target(target: &Target) -> TargetOptions {
    TargetOptions {
        name: target.name.clone(),
        url: target.url.clone(),
        endpoint: target.endpoint.clone(),
        region: target.region.clone(),
        access_key_id: target.access_key_id.clone(),
        secret_access_key: target.secret_access_key.as_ref().map(|s| Secret::new(s.expose())),
        credentials_file: target.credentials_file.clone(),
        allow_http: target.allow_http,
        storage_class: target.storage_class.clone(),
        sse: target.sse.clone(),
        ..TargetOptions::default()
    }
}
