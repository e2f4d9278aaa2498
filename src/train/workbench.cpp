#include "base/error.h"
#include "formats/saelens.h"
#include "sae/sae.h"
#include "train/reduce.h"
#include "train/step.h"

namespace strata::train {
namespace {

const char* described(bool transcoder, bool skip) {
    return !transcoder ? "an autoencoder" : skip ? "a transcoder with a skip connection" : "a transcoder";
}

}  // namespace

Workbench make_workbench(device::Device& device, const Replicas& replicas, Reducer& reducer, DeviceSums* sums,
                         device::Shape shape, std::int64_t batch_size) {
    const auto elements = static_cast<std::size_t>(shape.width * shape.n);
    device::Shape small = shape;
    small.width = 0;
    Workbench bench{.device = device,
                    .replicas = replicas,
                    .reducer = reducer,
                    .sums = sums,
                    .gradient = device::make_tensors(device, small),
                    .w_enc_gradients = {},
                    .w_dec_gradients = {},
                    .batch_size = batch_size};
    device.join(replicas.share_memory() ? replicas.group.get() : nullptr);
    static_cast<device::Shape&>(bench.gradient) = shape;
    bench.gradient.w_enc = replicas.readable_matrix(device, elements, bench.w_enc_gradients);
    bench.gradient.w_dec = replicas.readable_matrix(device, elements, bench.w_dec_gradients);
    const auto width = static_cast<std::size_t>(shape.width);
    bench.gradient.b_enc = device::make_memory<float>(device, width);
    bench.gradient.latent =
        device::make_memory<float>(device, static_cast<std::size_t>(shape.per_latent) * width);
    return bench;
}

void start_own(Workbench& bench, TrainedSae& sae, double spread) {
    if (sae.kind->start == nullptr) return;
    std::vector<float> own, norms;
    sae::Moment moment = moment_of(bench, sae, 0, own, norms);
    moment.spread = spread;
    std::vector<float> values(own.size());
    sae.kind->start(moment, sae::host_copy(bench.device, sae.parameters.b_enc), values);
    bench.device.upload(std::as_bytes(std::span(values)), sae.parameters.latent.data());
}

void check_init_from(const saelens::SavedSae& saved, const SaeConfig& config, const std::string& name,
                     const device::Shape& shape) {
    if (saved.n != shape.n || saved.width != shape.width)
        refuse("sae.init_from: {} reads rows of {} with {} latents; {} has rows of {} with {}",
               config.init_from, saved.n, saved.width, name, shape.n, shape.width);
    if (saved.transcoder != shape.transcoder || saved.w_skip.empty() == shape.skip)
        refuse("sae.init_from: {} is {}; {} is to be {}", config.init_from,
               described(saved.transcoder, !saved.w_skip.empty()), name,
               described(shape.transcoder, shape.skip));
}

void start_from_saved(Workbench& bench, TrainedSae& sae, double scale) {
    saelens::SavedSae saved = saelens::read(sae.config.init_from);
    device::Tensors& t = sae.parameters;
    check_init_from(saved, sae.config, sae.name, t);
    if (t.unit_rows) saelens::fold_decoder_norms(saved);
    saelens::fold_scale(saved, 1 / scale);
    if (!saved.apply_b_dec_to_input && !saved.transcoder) saelens::subtract_from_input(saved);
    saved.threshold.resize(static_cast<std::size_t>(saved.width), 0.0F);  // plain ReLU: z > 0

    std::vector<float> own, norms;
    const sae::Moment moment = moment_of(bench, sae, 0, own, norms);
    std::vector<float> values(own.size());
    if (sae.kind->unfold != nullptr) sae.kind->unfold(moment, saved.threshold, saved.b_enc, values);
    const auto put = [&](std::span<const float> from, float* to) {
        if (!from.empty()) bench.device.upload(std::as_bytes(from), to);
    };
    const Slice mine = bench.replicas.written(t.width);
    const auto at = static_cast<std::size_t>(mine.first * t.n);
    const auto count = static_cast<std::size_t>((mine.last - mine.first) * t.n);
    put(std::span(saved.w_enc).subspan(at, count), t.enc(mine.first));
    put(std::span(saved.w_dec).subspan(at, count), t.dec(mine.first));
    put(saved.b_enc, t.b_enc.data());
    put(saved.b_dec, t.b_dec.data());
    put(values, t.latent.data());
    put(saved.w_skip, t.w_skip.data());
}

void start_average(Workbench& bench, TrainedSae& sae, const OptimizerConfig& optimizer) {
    if (optimizer.kind == "adam") return;
    device::Device& device = bench.device;
    const Slice mine = bench.replicas.updated(sae.parameters.width);
    std::vector<std::byte> copy;
    const auto put = [&](const float* from, float* to, std::size_t count) {
        device.upload(device.view(from, count * sizeof(float), copy), to);
    };
    put(sae.parameters.enc(mine.first), sae.first.w_enc.data(), sae.first.w_enc.size);
    put(sae.parameters.dec(mine.first), sae.first.w_dec.data(), sae.first.w_dec.size);
    const auto from = sae.parameters.small(), to = sae.first.small();
    for (std::size_t i = 0; i < from.size(); ++i)
        if (!from[i].empty()) put(from[i].data(), to[i].data(), from[i].size());
}

void take_average(Workbench& bench, TrainedSae& sae, const OptimizerConfig& optimizer) {
    if (optimizer.kind == "adam") return;
    bench.replicas.group->barrier();  // nobody reads the old ones any more
    const Slice mine = bench.replicas.updated(sae.parameters.width);
    bench.device.average(sae.parameters, sae.first, static_cast<float>(optimizer.beta1), mine.first,
                         mine.last);
    bench.device.encoder_changed(sae.parameters);
    if (sae.kind->constrain != nullptr) {
        std::vector<float> own, norms;
        const sae::Moment moment = moment_of(bench, sae, bench.steps, own, norms);
        std::vector<float> values = own;
        sae.kind->constrain(moment, values);
        bench.device.upload(std::as_bytes(std::span(values)), sae.parameters.latent.data());
    }
    spread_weights(bench, sae.parameters);
}

std::int64_t hold_rows(device::Device& device, std::int64_t micro_batch, std::int64_t most_rows) {
    const std::int64_t rows = device::up_to_range(micro_batch);
    const bool all = device.host_memory() || rows == 0 || rows >= most_rows;
    device.hold_at_most(all ? 0 : rows);
    return all ? all_rows : rows;
}

TrainedSae make_sae(device::Device& device, const Replicas& replicas, const SaeConfig& config,
                    std::string name, const device::Shape& shape) {
    TrainedSae sae;
    sae.name = std::move(name);
    sae.config = config;
    sae.kind = &sae::kind_of(config.kind);
    sae.parameters = device::make_tensors(device, shape);
    const auto elements = static_cast<std::size_t>(shape.width * shape.n);
    if (replicas.share_memory()) {
        sae.parameters.w_enc = replicas.shared_matrix(device, elements);
        sae.parameters.w_dec = replicas.shared_matrix(device, elements);
    }
    if (const std::size_t bytes = device.encoder_bytes(shape); bytes > 0)
        sae.parameters.encoder = replicas.shared_bytes(device, bytes);
    device.encoder_changed(sae.parameters);
    const Slice mine = replicas.updated(shape.width);
    sae.first = device::make_tensors(device, shape, mine.first, mine.last);
    sae.second = device::make_tensors(device, shape, mine.first, mine.last);
    sae.silent.assign(static_cast<std::size_t>(config.width), 0);
    if (config.atm) sae.atm = make_atm(config.width);
    return sae;
}

}  // namespace strata::train
