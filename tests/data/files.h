#pragma once
// Activation files for tests, whose rows say which row they are.

#include <gtest/gtest.h>
#include <hdf5.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "config/config.h"
#include "data/dataset.h"
#include "data/writer.h"
#include "support/folder.h"

namespace strata::data {

using test::Folder;

inline DataConfig config_of(std::int64_t lanes, std::int64_t shuffle_rows, std::int64_t eval_rows) {
    DataConfig config;
    config.lanes = lanes;
    config.shuffle_rows = shuffle_rows;
    config.eval_rows = eval_rows;
    return config;
}

// Row r of numbered data: its number in three base-32 digits, exact in every type, then small values.
inline std::vector<float> numbered_row(std::int64_t row, std::int64_t n) {
    std::vector<float> values(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i)
        values[static_cast<std::size_t>(i)] =
            static_cast<float>(i < 3 ? 1 + ((row >> (5 * i)) & 31) : (row + i) % 7);
    return values;
}

inline std::int64_t number_of(const float* row, float scale = 1) {
    std::int64_t number = 0;
    for (int i = 2; i >= 0; --i) number = 32 * number + static_cast<std::int64_t>(row[i] / scale + 0.5F) - 1;
    return number;
}

inline void write_numbered(const std::string& path, const std::string& name, Type type, std::int64_t first,
                           std::int64_t rows, std::int64_t n) {
    Writer writer(path);
    const std::size_t dataset = writer.add({name, n, type, "test-model", "resid_post", 3});
    for (std::int64_t r = 0; r < rows; ++r) writer.append(dataset, numbered_row(first + r, n));
    writer.finish();
}

// Row r of the target is that of number 20000 + r.
inline constexpr std::int64_t target_numbers = 20000;

// Two numbered datasets in one file, the rows of the second being the targets of the first's. `change` may
// edit a pair of rows before it is written.
inline void write_paired(
    const std::string& path, const std::string& input, Type input_type, const std::string& target,
    Type target_type, std::int64_t first, std::int64_t rows, std::int64_t n,
    const std::function<void(std::int64_t, std::vector<float>&, std::vector<float>&)>& change = {}) {
    Writer writer(path);
    const std::size_t inputs = writer.add({input, n, input_type, "", "", -1});
    const std::size_t targets = writer.add({target, n, target_type, "", "", -1});
    for (std::int64_t r = first; r < first + rows; ++r) {
        std::vector<float> x = numbered_row(r, n), y = numbered_row(target_numbers + r, n);
        if (change) change(r, x, y);
        writer.append(inputs, x);
        writer.append(targets, y);
    }
    writer.finish();
}

// A dataset of any type and shape made by plain HDF5 calls; all elements are `value`. chunk 0: contiguous.
inline void write_plain(const std::string& path, const std::string& name, hid_t type,
                        std::vector<hsize_t> shape, double value = 1, hsize_t chunk = 0,
                        bool written = true) {
    const bool exists = std::filesystem::exists(path);
    const hid_t file = exists ? H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT)
                              : H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    const hid_t made = H5Pcreate(H5P_DATASET_CREATE);
    if (chunk > 0) {
        std::vector<hsize_t> chunks = shape;
        chunks[0] = chunk;
        H5Pset_chunk(made, static_cast<int>(chunks.size()), chunks.data());
    }
    const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
    const hid_t dataset = H5Dcreate2(file, name.c_str(), type, space, links, made, H5P_DEFAULT);
    hsize_t count = 1;
    for (const hsize_t d : shape) count *= d;
    const std::vector<double> values(count, value);
    if (written) H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    H5Dclose(dataset);
    H5Sclose(space);
    H5Pclose(made);
    H5Pclose(links);
    H5Fclose(file);
}

inline void flip_byte(const std::string& path, std::uintmax_t position) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(position));
    const char byte = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(position));
    file.put(static_cast<char>(byte ^ 0x5a));
}

// Changes a byte of a chunk of rows, so that it no longer fits its checksum.
inline void damage_chunk(const std::string& path, const std::string& name, hsize_t chunk) {
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
    const hid_t space = H5Dget_space(dataset);
    haddr_t address = HADDR_UNDEF;
    H5Dget_chunk_info(dataset, space, chunk, nullptr, nullptr, &address, nullptr);
    H5Sclose(space);
    H5Dclose(dataset);
    H5Fclose(file);
    flip_byte(path, address);
}

// What the call throws, as text; "" if it returns, or if it throws another type.
template <class Error, class Call>
std::string thrown(const Call& call) {
    try {
        call();
    } catch (const Error& error) {
        return error.what();
    }
    return {};
}

}  // namespace strata::data
