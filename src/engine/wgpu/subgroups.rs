//! Whether neighbours along x can tell each other what they loaded.

use wgpu::{
    BindGroupDescriptor, BindGroupEntry, BufferDescriptor, BufferUsages, ComputePipelineDescriptor, Device,
    ErrorFilter, MapMode, PollType, Queue, ShaderModuleDescriptor, ShaderSource,
};

/// Every invocation of a workgroup as the kernels have them says whether what each neighbour in its row of 8 holds arrives.
const PROBE: &str = "
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(8, 8)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_size) size: u32,
) {
    let low = vec4<u32>(subgroupBroadcast(index, 0u), subgroupBroadcast(index, 1u), subgroupBroadcast(index, 2u),
        subgroupBroadcast(index, 3u));
    let high = vec4<u32>(subgroupBroadcast(index, 4u), subgroupBroadcast(index, 5u), subgroupBroadcast(index, 6u),
        subgroupBroadcast(index, 7u));
    let row = local.y * 8u + vec4<u32>(0u, 1u, 2u, 3u);
    y[index] = u32(size == 8u && all(low == row) && all(high == row + 4u));
}";

/// True when subgroups are rows of 8 invocations. Nothing promises it, so it is tried.
pub(super) fn fit(device: &Device, queue: &Queue) -> bool {
    let scope = device.push_error_scope(ErrorFilter::Validation);
    let said = probe(device, queue);
    pollster::block_on(scope.pop()).is_none() && said.is_some_and(|words| words.iter().all(|&w| w == 1))
}

fn probe(device: &Device, queue: &Queue) -> Option<Vec<u32>> {
    const BYTES: u64 = 64 * 4;
    let buffer = |usage| {
        device.create_buffer(&BufferDescriptor { label: Some("probe"), size: BYTES, usage, mapped_at_creation: false })
    };
    let (y, staging) = (
        buffer(BufferUsages::STORAGE | BufferUsages::COPY_SRC),
        buffer(BufferUsages::MAP_READ | BufferUsages::COPY_DST),
    );
    let source = ShaderSource::Wgsl(PROBE.into());
    let module = device.create_shader_module(ShaderModuleDescriptor { label: Some("probe"), source });
    let pipeline = device.create_compute_pipeline(&ComputePipelineDescriptor {
        label: Some("probe"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let group = device.create_bind_group(&BindGroupDescriptor {
        label: Some("probe"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[BindGroupEntry { binding: 0, resource: y.as_entire_binding() }],
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(1, 1, 1);
    drop(pass);
    encoder.copy_buffer_to_buffer(&y, 0, &staging, 0, BYTES);
    let index = queue.submit([encoder.finish()]);
    staging.map_async(MapMode::Read, .., |_| ());
    device.poll(PollType::Wait { submission_index: Some(index), timeout: None }).ok()?;
    let view = staging.get_mapped_range(..).ok()?;
    Some(bytemuck::cast_slice(&view).to_vec())
}
