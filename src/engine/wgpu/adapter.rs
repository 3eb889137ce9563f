//! Which adapter the engine works on.

use super::Options;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use wgpu::{Adapter, AdapterInfo, Backend, Backends, DeviceType, Instance, InstanceDescriptor, InstanceFlags};

/// The variable that names an adapter, software included.
const ADAPTER: &str = "ONNX_UNLEARN_ADAPTER";
/// wgpu's own variable for the backends to look at.
const BACKEND: &str = "WGPU_BACKEND";

/// One line about an adapter.
pub(super) fn describe(info: &AdapterInfo) -> String {
    let driver = [info.driver.trim(), info.driver_info.trim()].map(str::to_owned).join(" ");
    let driver = if driver.trim().is_empty() { String::new() } else { format!(", {}", driver.trim()) };
    format!("{} ({}, {}{driver})", info.name.trim(), kind(info), backend(info))
}

/// The same by name, for records.
pub(super) fn facts(info: &AdapterInfo) -> BTreeMap<&'static str, String> {
    let all = [
        ("adapter", info.name.trim().to_owned()),
        ("backend", backend(info).to_owned()),
        ("deviceId", format!("{:#06x}", info.device)),
        ("driver", info.driver.trim().to_owned()),
        ("driverVersion", info.driver_info.trim().to_owned()),
        ("kind", kind(info).to_owned()),
        ("vendorId", format!("{:#06x}", info.vendor)),
    ];
    all.into_iter().filter(|(_, v)| !v.is_empty()).collect()
}

fn backend(info: &AdapterInfo) -> &'static str {
    match info.backend {
        Backend::Vulkan => "Vulkan",
        Backend::Metal => "Metal",
        Backend::Dx12 => "DX12",
        Backend::Gl => "OpenGL",
        Backend::BrowserWebGpu => "WebGPU",
        Backend::Noop => "no-op",
    }
}

fn kind(info: &AdapterInfo) -> &'static str {
    match info.device_type {
        DeviceType::DiscreteGpu => "discrete GPU",
        DeviceType::IntegratedGpu => "integrated GPU",
        DeviceType::VirtualGpu => "virtual GPU",
        DeviceType::Cpu => "software",
        DeviceType::Other => "GPU of unknown kind",
    }
}

/// The adapters that `options` allow, best first: hardware before software, then discrete, integrated,
/// virtual; the native interfaces before OpenGL.
///
/// # Errors
/// When there is none; the message lists what was found and says how to get one.
pub(super) fn candidates(options: &Options) -> Result<Vec<Adapter>> {
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
    let wanted = options.adapter_name.clone().or_else(|| var(ADAPTER)).map(|n| n.trim().to_lowercase());
    let backends = match options.backend.clone().or_else(|| var(BACKEND)) {
        Some(list) => parse_backends(&list)?,
        None => Backends::PRIMARY | Backends::SECONDARY,
    };
    let software = options.allow_software || wanted.is_some();
    let hardware = |i: &AdapterInfo| i.device_type != DeviceType::Cpu;
    let suits = |i: &AdapterInfo| {
        wanted.as_ref().is_none_or(|w| i.name.to_lowercase().contains(w))
            && (software || hardware(i))
            && i.backend != Backend::Noop
    };
    let mut found: Vec<(Adapter, AdapterInfo)> = Vec::new();
    // OpenGL, which opens display libraries, is looked at only when the others have no hardware to offer
    for set in [backends - Backends::GL, backends & Backends::GL] {
        if set.is_empty() || found.iter().any(|(_, i)| suits(i) && hardware(i)) {
            continue;
        }
        let mut descriptor = InstanceDescriptor::new_without_display_handle();
        descriptor.backends = set;
        descriptor.flags = InstanceFlags::empty();
        let adapters = pollster::block_on(Instance::new(descriptor).enumerate_adapters(set));
        found.extend(adapters.into_iter().map(|a| {
            let info = a.get_info();
            (a, info)
        }));
    }
    let listed: Vec<String> = found.iter().map(|(_, i)| describe(i)).collect();
    found.retain(|(_, i)| suits(i));
    found.sort_by_key(|(_, i)| rank(i.device_type));
    if found.is_empty() {
        return Err(none(wanted.as_deref(), backends, &listed));
    }
    Ok(found.into_iter().map(|(a, _)| a).collect())
}

fn rank(kind: DeviceType) -> u8 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

fn none(wanted: Option<&str>, backends: Backends, listed: &[String]) -> Error {
    let looked = backends.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
    Error::engine(match (wanted, listed) {
        (_, []) => format!(
            "no GPU adapter was found (looked at {looked}); install a Vulkan driver (Mesa's lavapipe runs without a \
             GPU) or choose another engine"
        ),
        (Some(w), found) => format!("no GPU adapter's name contains '{w}'; found: {}", found.join("; ")),
        (None, found) => format!(
            "only software adapters were found ({}); ask for the wgpu engine by name to use one",
            found.join("; ")
        ),
    })
}

fn parse_backends(list: &str) -> Result<Backends> {
    let mut backends = Backends::empty();
    for name in list.split(',') {
        backends |= match name.trim().to_lowercase().as_str() {
            "vulkan" | "vk" => Backends::VULKAN,
            "metal" | "mtl" => Backends::METAL,
            "dx12" | "d3d12" => Backends::DX12,
            "opengl" | "gles" | "gl" => Backends::GL,
            other => {
                return Err(Error::engine(format!("'{other}' is no GPU backend: use vulkan, metal, dx12 or gl")));
            }
        };
    }
    Ok(backends)
}
